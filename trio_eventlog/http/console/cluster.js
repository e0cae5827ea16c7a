// The cluster: whether it is well, and what it does just now.
import uPlot from "/console/uplot.js";
import { ask, bytes, h, parseMetrics, quantile, table, whole } from "/console/data.js";

const SECONDS_SHOWN = 120;
const ROLES = { leader: "accent", voter: "", learner: "" };
const STATUSES = { alive: "good", suspect: "warn", joining: "warn", draining: "warn", failed: "bad", left: "bad", removed: "bad" };

const CHARTS = [
  { name: "Produced through this node", unit: "records/s", rate: "eventlog_produced_records_total" },
  { name: "Written to logs", unit: "/s", rate: "eventlog_wal_written_bytes_total", show: bytes },
  { name: "Write and fsync, slowest 1 %", unit: "ms", p99: "eventlog_fsync_seconds" },
  { name: "Lag of the event loop", unit: "ms", gauge: "eventlog_event_loop_lag_seconds" },
];

function verdict(status, members) {
  const silent = members.filter((member) => ["failed", "left", "suspect"].includes(member.status) && member.role);
  const leaderless = status.groups.filter((group) => group.topic && !group.leader_id).length;
  const own = status.groups.filter((group) => group.topic).length;
  const nodes = members.filter((member) => member.id && member.status !== "removed");
  const summary = `${nodes.length - silent.length} of ${nodes.length} nodes answer; ${own} partitions on this node, ${own - leaderless} with a leader.`;
  if (!status.leader_id) return ["bad", "Nobody leads the cluster", "Too few nodes reach each other, or an election is under way. Look whether most of the nodes run and reach each other's port."];
  if (leaderless) return ["bad", `${leaderless} partitions have no leader`, `${summary} Producing to these waits until most of their nodes are back.`];
  if (silent.length) return ["warn", `${silent.map((member) => member.name).join(", ")} ${silent.length > 1 ? "do" : "does"} not answer`, `${summary} Start it again; if it does not come back, take it out with trio-eventlog node remove.`];
  if (status.unready_because) return ["warn", "This node is not ready", `${status.unready_because}. ${summary}`];
  if (status.warnings.length) return ["warn", "The cluster works, and something needs a look", summary];
  return ["good", "The cluster is well", summary];
}

function showVerdict([kind, title, text]) {
  return h("div", { class: `verdict ${kind}`, role: "status" }, h("span", { class: "dot", "aria-hidden": "true" }), h("div", {}, h("strong", {}, title), h("p", {}, text)));
}

function nodeRows(members, status) {
  return members.map((member) => [
    h("span", {}, member.name, member.id === status.id ? h("span", { class: "quiet" }, " (this one)") : ""),
    h("span", { class: "mono" }, member.address),
    h("span", { class: `tag ${STATUSES[member.status] || ""}` }, member.status),
    member.role ? h("span", { class: `tag ${ROLES[member.role] || ""}` }, member.role) : "–",
    whole(member.lag_entries),
    member.last_contact_seconds == null ? "–" : `${member.last_contact_seconds.toFixed(1)} s ago`,
  ]);
}

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.times = [];
    this.values = [];
    this.shown = h("div", { class: "value" }, "–");
    this.place = h("div", { class: "chart", "aria-hidden": "true" });
    this.element = h("div", { class: "card" }, h("div", { class: "name" }, spec.name), this.shown, this.place);
  }

  value(before, now, seconds) {
    const { rate, p99, gauge } = this.spec;
    if (rate) return ((now.get(rate) || 0) - (before.get(rate) || 0)) / seconds;
    if (gauge) return (now.get(gauge) || 0) * 1000;
    const found = quantile(0.99, before, now, p99);
    return found == null ? null : Math.min(found, 10) * 1000;
  }

  add(before, now, seconds) {
    const value = this.value(before, now, seconds);
    this.times.push(Date.now() / 1000);
    this.values.push(value);
    if (this.times.length > SECONDS_SHOWN / 2) { this.times.shift(); this.values.shift(); }
    // Of a histogram only the bounds of its buckets are known.
    const text = value == null ? "–" : this.spec.p99 ? `≤ ${whole(value)}` : this.spec.show ? this.spec.show(Math.round(value)) : value >= 100 ? whole(Math.round(value)) : value.toFixed(1);
    this.shown.replaceChildren(text, h("small", {}, this.spec.unit));
    if (!this.place.clientWidth) return;
    if (!this.plot) {
      const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
      const none = { show: false };
      this.plot = new uPlot(
        { width: this.place.clientWidth, height: 54, legend: none, cursor: none, axes: [none, none], scales: { y: { range: (u, low, high) => [0, high || 1] } },
          series: [{}, { stroke: accent, width: 1.5, fill: `${accent}22`, points: none, spanGaps: true }] },
        [this.times, this.values], this.place);
    }
    this.plot.setData([this.times, this.values]);
  }
}

export async function clusterPage(main, signal) {
  const charts = CHARTS.map((spec) => new Chart(spec));
  const top = h("div", {});
  const nodes = h("div", {});
  const warnings = h("div", {});
  let before = null;
  let beforeAt = 0;

  async function refresh() {
    const [status, metrics] = await Promise.all([ask("/status"), ask("/metrics")]);
    let members = [];
    try { members = (await ask("/members")).members; } catch (error) { if (status.leader_id) throw error; }
    if (signal.aborted) return;
    top.replaceChildren(showVerdict(verdict(status, members)));
    nodes.replaceChildren(table("Nodes", [["Node"], ["Address", "hide-narrow"], ["Status"], ["Role"], ["Behind", "num"], ["Heard", "num hide-narrow"]], nodeRows(members, status), "No node is known while nobody leads the cluster."));
    warnings.replaceChildren(...(status.warnings.length ? [h("h2", {}, "Warnings"), h("div", { class: "panel" }, h("ul", { class: "warnings" }, status.warnings.map((text) => h("li", {}, text))))] : []));
    const now = parseMetrics(metrics);
    if (before) for (const chart of charts) chart.add(before, now, (performance.now() - beforeAt) / 1000);
    before = now;
    beforeAt = performance.now();
  }

  await refresh();
  main.replaceChildren(h("h1", {}, "Cluster"), top, h("div", { class: "cards" }, charts.map((chart) => chart.element)), warnings, h("h2", {}, "Nodes"), nodes);
  return { refresh, seconds: 2 };
}
