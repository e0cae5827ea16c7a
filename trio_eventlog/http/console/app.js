// Which page is shown: the address says it, so that it can be shared and survives a reload.
import { clusterPage } from "/console/cluster.js";
import { ask, h } from "/console/data.js";
import { aggregatePage, eventsPage } from "/console/events.js";
import { logsPage } from "/console/logs.js";
import { topicPage, topicsPage } from "/console/topics.js";

const main = document.getElementById("main");
let leaving = new AbortController();

function page() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  if (parts[0] === "topics" && parts[1]) return ["topics", parts[1], (place, signal) => topicPage(place, signal, parts[1])];
  if (parts[0] === "topics") return ["topics", "Topics", (place, signal) => topicsPage(place, signal)];
  if (parts[0] === "events" && parts[1]) return ["events", parts[1], (place, signal) => aggregatePage(place, signal, parts[1])];
  if (parts[0] === "events") return ["events", "Events", (place, signal) => eventsPage(place, signal)];
  if (parts[0] === "logs") return ["logs", "Logs", (place, signal) => logsPage(place, signal)];
  return ["cluster", "Cluster", (place, signal) => clusterPage(place, signal)];
}

function showFailure(page, error) {
  let place = document.getElementById("failure");
  if (!place) {
    place = h("div", { id: "failure", class: "verdict bad", role: "alert" });
    page.prepend(place);
  }
  place.replaceChildren(h("span", { class: "dot", "aria-hidden": "true" }), h("div", {}, h("strong", {}, "Something could not be shown"), h("p", {}, `${error.message}. Trying again every few seconds.`)));
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [name, title, open] = page();
  document.title = `${title} – trio-eventlog`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // Each page has a place of its own: one that was left while it was still asking shows its answer to nobody.
  const place = h("div", {}, h("p", { class: "quiet" }, "Asking the node…"));
  main.replaceChildren(place);
  let opened = null;
  while (!signal.aborted) {
    try {
      if (!opened) opened = await open(place, signal);
      else await opened.refresh();
      if (signal.aborted) return;
      document.getElementById("failure")?.remove();
    } catch (error) {
      if (signal.aborted) return;
      if (!opened) place.replaceChildren();
      showFailure(place, error);
    }
    await new Promise((done) => setTimeout(done, (opened?.seconds ?? 3) * 1000));
  }
}

async function introduce() {
  try {
    const status = await ask("/status?groups=false");
    document.getElementById("whoami").textContent = `${status.name} · ${status.cluster_name} · ${status.version}`;
  } catch { /* The page itself says that the node does not answer. */ }
}

addEventListener("hashchange", show);
// Charts have the colours of the scheme in which they were made.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();
introduce();
