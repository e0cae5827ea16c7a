// Events: the newest of all, and one aggregate with its versions.
import { ask, follow, h, moment, pretty, send, table, whole } from "/console/data.js";

const PAGE = 50;

const aggregateLink = (id) => h("a", { href: `#/events/${encodeURIComponent(id)}` }, id);
const typeTag = (event) => [h("span", { class: "tag accent" }, event.type), event.closes ? h("span", { class: "tag warn" }, "closes") : ""];

function payload(event) {
  if (event.payload_base64) return h("pre", { class: "quiet", title: "bytes, as base64" }, event.payload_base64);
  return pretty(event.payload);
}

function eventRows(events) {
  return events.map((event) => [whole(event.version), moment(event.time), h("span", { class: "tags" }, typeTag(event)), aggregateLink(event.aggregate_id), payload(event)]);
}

const HEADS = [["Version", "num"], ["Time", "hide-narrow"], ["Type"], ["Aggregate"], ["Payload"]];

class Newest {
  constructor() {
    this.events = [];
    this.next = "";
    this.following = null;
    this.turn = 0;
    this.type = h("input", { type: "text", autocomplete: "off", placeholder: "all" });
    this.aggregate = h("input", { type: "text", autocomplete: "off" });
    this.live = h("button", { type: "button", "aria-pressed": "false", onclick: () => (this.following ? this.stop() : this.follow()) }, "Follow live");
    this.said = h("p", { class: "said quiet", role: "status" });
    this.place = h("div", {});
    const look = (event) => { event.preventDefault(); if (this.aggregate.value) location.hash = `#/events/${encodeURIComponent(this.aggregate.value)}`; };
    const filter = (event) => { event.preventDefault(); this.show().catch((error) => this.say(error.message, "bad")); };
    this.element = h("div", {},
      h("form", { class: "row", onsubmit: look }, h("label", { class: "wide" }, "Aggregate", this.aggregate), h("button", {}, "Open")),
      h("form", { class: "row", onsubmit: filter }, h("label", {}, "Type", this.type), h("button", {}, "Show"), this.live),
      this.said, this.place);
  }

  say(text, kind = "quiet") {
    this.said.className = `said ${kind}`;
    this.said.textContent = text;
  }

  // Pages go forward only: the last of them are the newest.
  async show() {
    this.stop();
    // What was asked for first may be answered last: only the answer to the newest question is shown.
    const turn = ++this.turn;
    this.events = [];
    this.next = "";
    let pages = 0;
    for (let end = false; !end; pages++) {
      const from = this.next ? `&from=${encodeURIComponent(this.next)}` : "";
      const type = this.type.value ? `&type=${encodeURIComponent(this.type.value)}` : "";
      const page = await ask(`/events?limit=1000&consistency=committed${from}${type}`);
      if (turn !== this.turn) return;
      this.events.push(...page.events);
      this.events.splice(0, Math.max(0, this.events.length - PAGE));
      this.next = page.next;
      end = page.end;
      // What would take too long is followed from here: the newest come by themselves.
      if (pages === 9 && !end) { this.say("There are very many events: these are not the newest. Filter by type, open an aggregate, or follow live.", "bad"); break; }
      if (end) this.say(this.events.length ? "The newest stand first." : "");
    }
    this.draw();
  }

  draw() {
    this.place.replaceChildren(table("Events", HEADS, eventRows([...this.events].reverse()), this.type.value ? "There is no event of this type." : "There is no event yet. Append one below, or by curl: POST /events."));
  }

  follow() {
    const from = this.next ? `&from=${encodeURIComponent(this.next)}` : "";
    const type = this.type.value ? `&type=${encodeURIComponent(this.type.value)}` : "";
    this.live.setAttribute("aria-pressed", "true");
    this.live.textContent = "Stop following";
    this.say("Waiting for events; the newest stand first.");
    this.following = follow(`/events/stream?topic=events${from}${type}`, {
      keep: PAGE,
      take: (events) => { this.events.push(...events); this.events.splice(0, Math.max(0, this.events.length - PAGE)); this.draw(); },
      say: (text) => this.say(text, "bad"),
    });
  }

  stop() {
    this.following?.stop();
    this.following = null;
    this.live.setAttribute("aria-pressed", "false");
    this.live.textContent = "Follow live";
  }
}

function appendForm(aggregateId, expected, done) {
  const aggregate = h("input", { type: "text", autocomplete: "off", required: true, value: aggregateId || null });
  const type = h("input", { type: "text", autocomplete: "off", required: true });
  const version = h("input", { type: "text", autocomplete: "off", value: expected ?? "any", size: "8" });
  const value = h("textarea", {}, "{}");
  const said = h("p", { class: "said", role: "status" });
  const button = h("button", { class: "primary" }, "Append");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      let body;
      try { body = JSON.parse(value.value || "null"); } catch { throw new Error("the payload is no JSON"); }
      const wanted = /^\d+$/.test(version.value) ? Number(version.value) : version.value || "any";
      const answer = await send("/events", { aggregate_id: aggregate.value, type: type.value, payload: body, expected_version: wanted });
      said.className = "said good";
      said.textContent = `Appended: ${aggregate.value} has version ${whole(answer.version)} now.`;
      await done(answer, version);
    } catch (error) {
      said.className = "said bad";
      said.textContent = error.body?.code === "WRONG_EXPECTED_VERSION"
        ? `Somebody was faster: you expected version ${error.body.expected_version}, and it is ${error.body.actual_version}. Look at what came, and try again.`
        : error.message;
    }
    button.disabled = false;
  };
  return h("div", {}, h("h2", {}, "Append an event"), h("form", { onsubmit: submit },
    h("div", { class: "row" }, h("label", { class: "wide" }, "Aggregate", aggregate), h("label", {}, "Type", type), h("label", { title: "How many events it has: 0 for none yet; or exists; or any" }, "Expected version", version)),
    h("label", {}, "Payload (JSON)", value), h("div", { class: "row after" }, button, said)));
}

export async function eventsPage(main, signal) {
  const newest = new Newest();
  signal.addEventListener("abort", () => newest.stop());
  await newest.show();
  main.replaceChildren(h("h1", {}, "Events"), newest.element, appendForm("", "any", () => (newest.following ? undefined : newest.show())));
  return { refresh: async () => {}, seconds: 3600 };
}

export async function aggregatePage(main, signal, id) {
  const head = h("p", { class: "quiet" });
  const place = h("div", {});
  const older = h("button", { type: "button", onclick: () => show(first - PAGE).catch(fail) }, "Older");
  const newer = h("button", { type: "button", onclick: () => show(first + PAGE).catch(fail) }, "Newer");
  const said = h("p", { class: "said bad", role: "status" });
  const fail = (error) => { said.textContent = error.message; };
  let first = 1;
  let version = 0;

  async function show(from) {
    const path = `/events/${encodeURIComponent(id)}`;
    let page;
    try {
      page = from == null ? await ask(`${path}?direction=backwards&limit=${PAGE}`) : await ask(`${path}?from_version=${Math.max(1, from)}&limit=${PAGE}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      page = { events: [], version: 0, closed: false };
    }
    const events = from == null ? [...page.events].reverse() : page.events;
    version = page.version;
    first = events.length ? events[0].version : 1;
    head.replaceChildren(page.version ? `Version ${whole(page.version)}. ` : "It has no event. ", page.closed ? h("span", { class: "tag warn" }, "closed") : "", page.closed ? " Further events are refused unless it is opened again." : "");
    older.disabled = first <= 1;
    newer.disabled = !events.length || events[events.length - 1].version >= page.version;
    const rows = events.map((event) => [whole(event.version), moment(event.time), h("span", { class: "tags" }, typeTag(event)), payload(event), event.metadata === undefined ? "–" : pretty(event.metadata)]);
    place.replaceChildren(table("Versions", [["Version", "num"], ["Time", "hide-narrow"], ["Type"], ["Payload"], ["Metadata", "hide-narrow"]], rows, "There is no event of this aggregate."));
    said.textContent = "";
  }

  await show(null);
  const form = appendForm(id, version, async (answer, field) => { field.value = answer.version; await show(null); });
  main.replaceChildren(h("p", { class: "crumbs" }, h("a", { href: "#/events" }, "Events")), h("h1", {}, id), head, h("div", { class: "row" }, older, newer), said, place, form);
  return { refresh: async () => {}, seconds: 3600 };
}
