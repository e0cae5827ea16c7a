// Log lines: found by service, level, time and text; how many there were over time; followed as they come.
import uPlot from "/console/uplot.js";
import { ask, bytes, follow, h, moment, pretty, table, whole } from "/console/data.js";

const LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
const KINDS = { WARN: "warn", ERROR: "bad", FATAL: "bad", INFO: "accent" };
const SPANS = [["5m", "last 5 minutes"], ["1h", "last hour"], ["6h", "last 6 hours"], ["1d", "last day"], ["7d", "last week"], ["", "all"]];
const AROUND_SECONDS = 5;
const REFRESH_SECONDS = 5;

const select = (options, attributes) => h("select", attributes, options.map(([value, text]) => h("option", { value }, text)));

class Logs {
  constructor() {
    this.lines = [];
    this.tail = "";
    this.next = "";
    this.following = null;
    this.turn = 0;
    this.service = select([["", "all"]], {});
    this.level = select([["", "all"], ...LEVELS.map((name) => [name, name])], {});
    this.span = select(SPANS, {});
    this.span.value = "1h";
    this.contains = h("input", { type: "search", autocomplete: "off" });
    this.regex = h("input", { type: "checkbox" });
    this.limit = select([["100", "100"], ["500", "500"], ["2000", "2,000"]], {});
    this.every = h("input", { type: "checkbox" });
    this.live = h("button", { type: "button", "aria-pressed": "false", onclick: () => (this.following ? this.pause() : this.follow()) }, "Follow live");
    this.older = h("button", { type: "button", onclick: () => this.more().catch((error) => this.say(error.message, "bad")) }, "Older lines");
    this.said = h("p", { class: "said quiet", role: "status" });
    this.chart = h("div", { class: "histogram", role: "img" });
    this.place = h("div", {});
    const find = (event) => { event.preventDefault(); this.show().catch((error) => this.say(error.message, "bad")); };
    const form = h("form", { class: "row", onsubmit: find },
      h("label", {}, "Service", this.service), h("label", {}, "Level", this.level), h("label", {}, "Time", this.span), h("label", { class: "wide" }, "Message contains", this.contains),
      h("label", { class: "check" }, this.regex, "regular expression"), h("label", {}, "Lines", this.limit), h("button", { class: "primary" }, "Search"), this.live, h("label", { class: "check" }, this.every, "every 5 s"));
    for (const field of [this.service, this.level, this.span, this.limit]) field.addEventListener("change", () => form.requestSubmit());
    this.element = h("div", {}, form, this.said, this.chart, this.place, h("div", { class: "row after" }, this.older));
  }

  say(text, kind = "quiet") {
    this.said.className = `said ${kind}`;
    this.said.textContent = text;
  }

  filters() {
    const wanted = new URLSearchParams();
    if (this.service.value) wanted.set("service", this.service.value);
    if (this.level.value) wanted.set("level", this.level.value);
    if (this.contains.value) wanted.set(this.regex.checked ? "regex" : "contains", this.contains.value);
    return wanted;
  }

  async services() {
    const { services } = await ask("/v1/logs/services?since=7d");
    const chosen = this.service.value;
    const names = services.map((one) => one.name).filter(Boolean).sort();
    this.service.replaceChildren(h("option", { value: "" }, "all"), ...names.map((name) => h("option", { value: name }, name)));
    this.service.value = names.includes(chosen) ? chosen : "";
  }

  // What was asked for first may be answered last: only the answer to the newest question is shown.
  async show() {
    this.pause();
    const turn = ++this.turn;
    const wanted = this.filters();
    if (this.span.value) wanted.set("since", this.span.value);
    const counted = new URLSearchParams(wanted);
    if (!counted.get("since")) counted.set("since", "7d");
    const [found, histogram] = await Promise.all([ask(`/v1/logs?${new URLSearchParams([...wanted, ["limit", this.limit.value]])}`), ask(`/v1/logs/histogram?${counted}`)]);
    if (turn !== this.turn) return;
    this.histogram(histogram);
    this.lines = found.logs;
    this.tail = found.tail;
    this.next = found.end ? "" : found.next;
    this.report(found);
    this.draw();
  }

  async more() {
    const wanted = this.filters();
    if (this.span.value) wanted.set("since", this.span.value);
    const turn = ++this.turn;
    const found = await ask(`/v1/logs?${new URLSearchParams([...wanted, ["limit", this.limit.value], ["from", this.next]])}`);
    if (turn !== this.turn) return;
    this.lines.push(...found.logs);
    this.next = found.end ? "" : found.next;
    this.report(found);
    this.draw();
  }

  report(found) {
    const unreadable = found.unreadable_batches ? ` ${whole(found.unreadable_batches)} batches could not be read.` : "";
    this.say(`${whole(this.lines.length)} lines${found.end ? ", and no more" : ", the newest first"}; ${bytes(found.scanned_bytes)} were looked through.${unreadable}`, unreadable ? "bad" : "quiet");
    this.older.disabled = !this.next;
  }

  histogram({ buckets, complete }) {
    this.chart.replaceChildren();
    const all = buckets.reduce((sum, bucket) => sum + bucket.lines, 0);
    const bad = buckets.reduce((sum, bucket) => sum + (bucket.levels.ERROR || 0) + (bucket.levels.FATAL || 0), 0);
    this.chart.setAttribute("aria-label", `${whole(all)} lines over time, ${whole(bad)} of them errors${complete ? "" : "; older ones are not counted"}`);
    if (!all) return;
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(name).trim();
    const bars = uPlot.paths.bars({ size: [0.85, 40] });
    const times = buckets.map((bucket) => Date.parse(bucket.time) / 1000);
    const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    // The bars of errors stand in front of those of all lines.
    const plot = new uPlot({
      width: this.chart.clientWidth || 1080, height: 120, cursor: { show: false }, legend: { show: false },
      scales: { y: { range: (_, __, most) => [0, Math.max(1, most)] } },
      axes: [axis, { ...axis, size: 56, values: (_, values) => values.map((value) => (Number.isInteger(value) ? whole(value) : "")) }],
      series: [{}, { fill: color("--accent"), stroke: color("--accent"), paths: bars, points: { show: false } }, { fill: color("--bad"), stroke: color("--bad"), paths: bars, points: { show: false } }],
    }, [times, buckets.map((bucket) => bucket.lines), buckets.map((bucket) => (bucket.levels.ERROR || 0) + (bucket.levels.FATAL || 0))], this.chart);
    new ResizeObserver(() => plot.setSize({ width: this.chart.clientWidth, height: 120 })).observe(this.chart);
  }

  draw() {
    const rows = this.lines.map((line) => [
      moment(line.timestamp), h("span", { class: `tag ${KINDS[line.level] || ""}` }, line.level), h("span", { class: "mono" }, line.service), this.line(line),
    ]);
    this.place.replaceChildren(table("Lines", [["Time", "hide-narrow"], ["Level"], ["Service", "hide-narrow"], ["Message"]], rows, "No line fits. Look further back, or ask for less. Lines come in by POST /v1/logs."));
  }

  // Its fields open below it, and from there what was logged around it.
  line(line) {
    const fields = Object.entries(line).filter(([name]) => !["message", "labels"].includes(name));
    const details = h("details", {}, h("summary", {}, h("pre", {}, line.message)));
    details.addEventListener("toggle", () => {
      if (!details.open || details.dataset.filled) return;
      details.dataset.filled = "yes";
      const around = h("button", { type: "button", onclick: () => this.around(line, details, around) }, `What happened within ${AROUND_SECONDS} s`);
      const shown = [...fields, ...Object.entries(line.labels || {}).map(([name, value]) => [`label ${name}`, value])];
      details.append(h("dl", { class: "fields" }, shown.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "mono" }, String(value))])), around);
    });
    return details;
  }

  async around(line, details, button) {
    const at = Date.parse(line.timestamp);
    const times = [["since", new Date(at - AROUND_SECONDS * 1000).toISOString()], ["until", new Date(at + AROUND_SECONDS * 1000).toISOString()], ["limit", "100"], ["direction", "forward"]];
    try {
      const found = await ask(`/v1/logs?${new URLSearchParams(times)}`);
      button.replaceWith(h("ul", { class: "around" }, found.logs.map((one) => h("li", { class: one.partition === line.partition && one.offset === line.offset ? "here" : null },
        h("span", { class: `tag ${KINDS[one.level] || ""}` }, one.level), " ", h("span", { class: "mono" }, `${one.timestamp.slice(11, 23)} ${one.service}: ${one.message}`)))));
    } catch (error) {
      details.append(h("p", { class: "said bad" }, error.message));
    }
  }

  follow() {
    const wanted = this.filters();
    if (this.tail) wanted.set("from", this.tail);
    this.live.setAttribute("aria-pressed", "true");
    this.live.textContent = "Pause";
    this.say("Lines appear as they come; the newest stand first.");
    const keep = Number(this.limit.value);
    this.following = follow(`/v1/logs/tail?${wanted}`, {
      keep,
      take: (lines, id) => { this.tail = id; this.lines.unshift(...lines.reverse()); this.lines.splice(keep); this.draw(); },
      say: (text) => this.say(text, "bad"),
    });
  }

  pause() {
    this.following?.stop();
    this.following = null;
    this.live.setAttribute("aria-pressed", "false");
    this.live.textContent = "Follow live";
  }

  async refresh() {
    if (this.every.checked && !this.following && !this.place.querySelector("details[open]")) { await this.services(); await this.show(); }
  }
}

export async function logsPage(main, signal) {
  const logs = new Logs();
  signal.addEventListener("abort", () => logs.pause());
  await logs.services();
  main.replaceChildren(h("h1", {}, "Logs"), logs.element);
  await logs.show();
  return { refresh: () => logs.refresh(), seconds: REFRESH_SECONDS };
}
