// Topics: the list, and one topic with its partitions and records.
import { ask, bytes, follow, h, moment, pretty, send, table, whole } from "/console/data.js";

const PAGE = 50;

const kept = (topic) => {
  const parts = [];
  if (topic.retention_seconds) parts.push(topic.retention_seconds >= 86400 ? `${whole(Math.round(topic.retention_seconds / 86400))} d` : `${whole(topic.retention_seconds)} s`);
  if (topic.retention_bytes) parts.push(bytes(topic.retention_bytes));
  return parts.join(", ") || "everything";
};

export async function topicsPage(main) {
  const { topics } = await ask("/topics");
  const rows = topics.map((topic) => [h("a", { href: `#/topics/${encodeURIComponent(topic.name)}` }, topic.name), whole(topic.partitions), whole(topic.replicas), kept(topic)]);
  main.replaceChildren(h("h1", {}, "Topics"), table("Topics", [["Topic"], ["Partitions", "num"], ["Replicas", "num"], ["Keeps"]], rows, "There is no topic yet. Producing to one makes it on a single node; elsewhere: trio-eventlog topics create NAME."));
  return { refresh: () => topicsPage(main), seconds: 5 };
}

function shown(record) {
  if (record.base64 != null) return h("pre", { class: "quiet", title: "bytes, as base64" }, record.base64);
  try {
    const value = JSON.parse(record.value);
    if (typeof value === "object" && value) return pretty(value);
  } catch { /* It is text. */ }
  return pretty(record.value);
}

function recordRows(records) {
  return records.map((record) => [whole(record.offset), moment(record.timestamp), h("span", { class: "mono" }, record.key ?? record.key_base64 ?? "–"), shown(record)]);
}

class Records {
  constructor(name, partitions) {
    this.name = name;
    this.first = null;
    this.page = null;
    this.tail = null;
    this.turn = 0;
    this.partition = h("select", { onchange: () => this.show(null) }, partitions.map((one) => h("option", { value: one.partition }, one.partition)));
    this.offset = h("input", { type: "number", min: "0", step: "1" });
    this.older = h("button", { type: "button", onclick: () => this.show(Math.max(this.page.log_start_offset, this.first - PAGE)) }, "Older");
    this.newer = h("button", { type: "button", onclick: () => this.show(this.page.next_offset) }, "Newer");
    this.live = h("button", { type: "button", "aria-pressed": "false", onclick: () => (this.tail ? this.stop() : this.follow()) }, "Follow live");
    this.said = h("p", { class: "said quiet", role: "status" });
    this.place = h("div", {});
    const go = (event) => { event.preventDefault(); this.show(this.offset.value === "" ? null : Number(this.offset.value)); };
    this.element = h("div", {}, h("h2", {}, "Records"),
      h("form", { class: "row", onsubmit: go }, h("label", {}, "Partition", this.partition), h("label", {}, "From offset", this.offset), h("button", {}, "Show"), this.older, this.newer, this.live),
      this.said, this.place);
  }

  async show(offset) {
    this.stop();
    // What was asked for first may be answered last: only the answer to the newest question is shown.
    const turn = ++this.turn;
    let page;
    const base = `/topics/${encodeURIComponent(this.name)}/partitions/${this.partition.value}/records`;
    try {
      if (offset == null) {
        const edges = await ask(`${base}?limit=1`);
        offset = Math.max(edges.log_start_offset, edges.high_watermark - PAGE);
      }
      page = await ask(`${base}?offset=${offset}&limit=${PAGE}`);
    } catch (error) {
      if (turn !== this.turn) return;
      this.said.textContent = error.message;
      this.said.className = "said bad";
      return;
    }
    if (turn !== this.turn) return;
    this.page = page;
    this.first = offset;
    this.offset.value = offset;
    this.older.disabled = offset <= this.page.log_start_offset;
    this.newer.disabled = this.page.next_offset >= this.page.high_watermark;
    this.said.className = "said quiet";
    this.said.textContent = `Offsets ${whole(this.page.log_start_offset)} to ${whole(this.page.high_watermark - 1)} can be read.`;
    if (!this.page.high_watermark) this.said.textContent = "";
    this.draw(this.page.records);
  }

  draw(records) {
    this.place.replaceChildren(table("Records", [["Offset", "num"], ["Time", "hide-narrow"], ["Key"], ["Value"]], recordRows(records), "There is no record here yet."));
  }

  follow() {
    const seen = [...(this.page?.records ?? [])];
    // Behind the newest records that are shown, so that none is missed that came since; otherwise with the next one.
    const start = this.page && this.page.next_offset >= this.page.high_watermark ? `?offset=${this.page.next_offset}` : "";
    this.live.setAttribute("aria-pressed", "true");
    this.live.textContent = "Stop following";
    this.said.textContent = "Waiting for records; the newest stand first.";
    this.tail = follow(`/topics/${encodeURIComponent(this.name)}/partitions/${this.partition.value}/tail${start}`, {
      keep: PAGE,
      take: (records) => { seen.push(...records); seen.splice(0, Math.max(0, seen.length - PAGE)); this.draw([...seen].reverse()); },
      say: (text) => { this.said.textContent = text; },
    });
  }

  stop() {
    this.tail?.stop();
    this.tail = null;
    this.live.setAttribute("aria-pressed", "false");
    this.live.textContent = "Follow live";
  }
}

function produceForm(name, records) {
  const key = h("input", { type: "text", autocomplete: "off" });
  const value = h("textarea", { required: true });
  const said = h("p", { class: "said", role: "status" });
  const button = h("button", { class: "primary" }, "Produce");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const answer = await send(`/topics/${encodeURIComponent(name)}/records`, { records: [{ value: value.value, ...(key.value ? { key: key.value } : {}) }] });
      const [where] = answer.results;
      said.className = "said good";
      said.textContent = `Acknowledged: partition ${where.partition}, offset ${whole(where.base_offset)}.`;
      if (!records.tail) { records.partition.value = where.partition; records.show(null); }
    } catch (error) {
      said.className = "said bad";
      said.textContent = error.message;
    }
    button.disabled = false;
  };
  return h("div", {}, h("h2", {}, "Produce a record"), h("form", { onsubmit: submit }, h("div", { class: "row" }, h("label", {}, "Key (optional)", key), h("label", { class: "wide" }, "Value", value)), h("div", { class: "row" }, button, said)));
}

export async function topicPage(main, signal, name) {
  const place = h("div", {});
  async function refresh() {
    const [topic, { members }] = await Promise.all([ask(`/topics/${encodeURIComponent(name)}`), ask("/members")]);
    const names = Object.fromEntries(members.map((member) => [member.id, member.name]));
    const rows = topic.partitions.map((one) => [
      whole(one.partition),
      one.leader_id ? names[one.leader_id] || one.leader_id : h("span", { class: "tag bad" }, "no leader"),
      one.replica_ids.map((id) => names[id] || id).join(", "),
      whole(one.log_start_offset), whole(one.high_watermark), bytes(one.size_bytes),
    ]);
    place.replaceChildren(table("Partitions", [["Partition", "num"], ["Leader"], ["Replicas", "hide-narrow"], ["First", "num"], ["End", "num"], ["Size here", "num"]], rows, ""));
    return topic;
  }
  const topic = await refresh();
  const records = new Records(name, topic.partitions);
  signal.addEventListener("abort", () => records.stop());
  main.replaceChildren(h("p", { class: "crumbs" }, h("a", { href: "#/topics" }, "Topics")), h("h1", {}, name),
    h("p", { class: "quiet" }, `${whole(topic.partition_count)} partitions, ${whole(topic.replicas)} replicas each; keeps ${kept(topic)}.`),
    place, records.element, produceForm(name, records));
  await records.show(null);
  return { refresh, seconds: 5 };
}
