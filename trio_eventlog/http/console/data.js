// What the pages share: asking the node, making elements without markup in strings, and numbers for people.

export async function ask(path, options = {}) {
  const stop = AbortSignal.timeout(10000);
  let answer;
  try {
    answer = await fetch(path, { signal: stop, ...options });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the node did not answer within 10 s" : "the node cannot be reached");
  }
  const type = answer.headers.get("content-type") || "";
  const body = type.includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw Object.assign(new Error(body.detail || `the node answered ${answer.status}`), { status: answer.status, body });
  return body;
}

export function send(path, value) {
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });
}

// h("td", {class: "num"}, "text", element, ...): text is always text, whatever it contains.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export function table(label, heads, rows, empty) {
  if (!rows.length) return h("div", { class: "panel" }, h("p", { class: "empty" }, empty));
  const head = heads.map(([text, kind]) => h("th", { scope: "col", class: kind }, text));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, place) => h("td", { class: heads[place][1] }, cell))));
  // A table that is wider than its panel scrolls, also by keyboard.
  return h("div", { class: "panel", tabindex: "0", role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

const WHOLE = new Intl.NumberFormat("en");
export const whole = (value) => (value == null ? "–" : WHOLE.format(value));

export function bytes(value) {
  if (value == null) return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

// Local time to read, UTC to compare: the latter shows when one points at it.
export function moment(text) {
  const when = new Date(text);
  return h("time", { datetime: text, title: `${text} (UTC)` }, when.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }));
}

// Samples of /metrics: name{labels} to value.
export function parseMetrics(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const at = line.lastIndexOf(" ");
    samples.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return samples;
}

// The value below which a share of what came between two readings of a histogram lies; null when nothing came.
export function quantile(share, before, now, name) {
  const buckets = [];
  for (const [key, value] of now) {
    if (key.startsWith(`${name}_bucket{`)) buckets.push([key.includes("+Inf") ? Infinity : Number(/le="([^"]+)"/.exec(key)[1]), value - (before.get(key) || 0)]);
  }
  const all = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (!all) return null;
  return buckets.find(([, count]) => count >= share * all)[0];
}

// A value in a cell: text as it is, JSON on several lines when it is long.
export function pretty(value) {
  if (value == null) return h("span", { class: "quiet" }, "null");
  if (typeof value === "string") return h("pre", {}, value);
  const short = JSON.stringify(value);
  return h("pre", {}, short.length <= 120 ? short : JSON.stringify(value, null, 2));
}

// A live tail: gathers what comes between two pictures, and says when the connection is gone.
export function follow(path, { keep, take, say }) {
  const source = new EventSource(path);
  let waiting = [];
  let lastId = "";
  let drawn = false;
  source.onmessage = (event) => {
    waiting.push(JSON.parse(event.data));
    lastId = event.lastEventId;
    waiting.splice(0, Math.max(0, waiting.length - keep));
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(() => {
      drawn = false;
      if (source.readyState === EventSource.CLOSED) return;
      const taken = waiting;
      waiting = [];
      take(taken, lastId);
    });
  };
  source.addEventListener("problem", (event) => say(JSON.parse(event.data).detail));
  source.onerror = () => say(source.readyState === EventSource.CLOSED ? "The node ended the stream. Show what there is, and follow again." : "The connection is gone; trying again…");
  return { stop: () => source.close() };
}
