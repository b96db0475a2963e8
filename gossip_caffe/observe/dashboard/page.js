// The page's program: it takes the parts that the server tells, and gives the keyboard and the pointer their meaning.
// It asks the server that it came from, and no other machine.
"use strict";

const QUIET_MS = 15000; // the server says something every 5 s
const AGAIN_MS = 2000;
const THEMES = ["auto", "light", "dark"];
const SHOWN_LINES = 9;
const NEAR_PX = 16; // beyond its ends a line has a value for the pointer no further than this
const root = document.documentElement;

// ── the theme, before the page is drawn ─────────────────────────────────────────────────────────────────────────────

function stored() {
  try { return localStorage.getItem("theme") || "auto"; } catch { return "auto"; }
}

function setTheme(theme) {
  if (theme === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* the browser keeps nothing: the theme is that of this view */ }
}

setTheme(THEMES.includes(stored()) ? stored() : "auto");

// ── the parts ───────────────────────────────────────────────────────────────────────────────────────────────────────

const waiting = new Map(); // part → HTML that came while the page was held
let held = false;
let title = "";
let told = "";

function part(which) { return document.querySelector(`[data-part="${which}"]`); }

function show(which, html) {
  const element = part(which);
  if (!element) return;
  const { scrollLeft, scrollTop } = element;
  element.innerHTML = html;
  element.scrollTo(scrollLeft, scrollTop);
  ready(element);
  if (which === "progress") {
    const share = element.querySelector("progress");
    document.title = share ? `${share.textContent} · ${title}` : title;
  }
  if (which === "news") {
    const newest = element.querySelector("li")?.textContent || "";
    if (newest !== told && told) document.getElementById("said").textContent = newest;
    told = newest;
  }
}

function take(parts) {
  for (const [which, html] of Object.entries(parts)) {
    if (held) waiting.set(which, html); else show(which, html);
  }
  if (!held) point();
}

function hold(now) {
  held = now;
  root.classList.toggle("held", held);
  document.getElementById("hold").setAttribute("aria-pressed", held);
  say(held ? "the page is held" : "the page goes on");
  if (held) return;
  for (const [which, html] of waiting) show(which, html);
  waiting.clear();
}

function say(words) { document.getElementById("said").textContent = words; }

// Tooltips of the browser vanish when a chart is drawn again, so the page shows its own.
function ready(element) {
  for (const title of element.querySelectorAll("svg title")) {
    title.parentElement.dataset.told = title.textContent;
    title.remove();
  }
}

// ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────────

let events = null;
let again = 0;
let quiet = 0;

function lost(is) {
  document.getElementById("lost").hidden = !is;
  root.classList.toggle("cut", is);
}

function heard() {
  lost(false);
  clearTimeout(quiet);
  quiet = setTimeout(() => { lost(true); connect(); }, QUIET_MS);
}

function connect() {
  events?.close();
  clearTimeout(again);
  events = new EventSource("/events");
  events.addEventListener("open", heard);
  events.addEventListener("beat", heard);
  events.addEventListener("parts", (event) => { heard(); take(JSON.parse(event.data)); });
  events.addEventListener("error", () => {
    lost(true);
    // The browser connects again by itself, unless the server refused.
    if (events.readyState === EventSource.CLOSED) again = setTimeout(connect, AGAIN_MS);
  });
}

// ── the pointer ─────────────────────────────────────────────────────────────────────────────────────────────────────

let at = null;

function point(event) {
  if (event) at = { x: event.clientX, y: event.clientY };
  document.querySelectorAll(".hair").forEach((hair) => hair.remove());
  const under = at && document.elementFromPoint(at.x, at.y);
  const words = under && (under.closest("[data-told]:not(polyline)")?.dataset.told || read(under.closest("svg[data-plot]")));
  const tip = document.getElementById("tip");
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.min(at.x + 16, innerWidth - width - 8)}px`;
  tip.style.top = `${at.y + 18 + height > innerHeight ? at.y - height - 12 : at.y + 18}px`;
}

// The values of all lines at the place of the pointer, read off the drawing and its stated scale.
function read(svg) {
  if (!svg) return "";
  const [left, top, right, bottom] = svg.dataset.plot.split(" ").map(Number);
  const [xLow, xHigh] = svg.dataset.x.split(" ").map(Number);
  const [yLow, yHigh] = svg.dataset.y.split(" ").map(Number);
  const box = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / box.width;
  const x = (at.x - box.left) * scale;
  const y = (at.y - box.top) * scale;
  if (x < left || x > right || y < top || y > bottom) return "";
  const lines = [...svg.querySelectorAll("polyline")].filter(({ points }) => (
    x > points[0].x - NEAR_PX && x < points[points.length - 1].x + NEAR_PX
  ));
  const found = lines.map((line) => {
    const nearest = [...line.points].reduce((best, now) => (Math.abs(now.x - x) < Math.abs(best.x - x) ? now : best));
    const value = yLow + (yHigh - yLow) * (bottom - nearest.y) / (bottom - top);
    return { name: line.dataset.told, value: "logarithmic" in svg.dataset ? 10 ** value : value, place: nearest };
  });
  if (!found.length) return "";
  found.sort((one, other) => Math.abs(one.place.y - y) - Math.abs(other.place.y - y));
  const hair = document.createElementNS(svg.namespaceURI, "line");
  const across = found[0].place.x;
  for (const [key, number] of [["x1", across], ["x2", across], ["y1", top], ["y2", bottom]]) hair.setAttribute(key, number);
  hair.setAttribute("class", "hair");
  svg.append(hair);
  const here = xLow + (xHigh - xLow) * (across - left) / (right - left);
  const near = found.slice(0, SHOWN_LINES).sort((one, other) => other.value - one.value);
  const values = near.map((one) => `${one.name}: ${Number(one.value.toPrecision(3))}`);
  if (found.length > SHOWN_LINES) values.push(`and ${found.length - SHOWN_LINES} more`);
  return [`${here.toLocaleString("en", { maximumFractionDigits: 1 })} ${svg.dataset.unit}`, ...values].join("\n");
}

// ── the keyboard ────────────────────────────────────────────────────────────────────────────────────────────────────

function cards() { return [...document.querySelectorAll(".card")]; }

function go(card) {
  if (!card) return;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function key(event) {
  const keys = document.getElementById("keys");
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const here = document.activeElement?.closest?.(".card");
  const place = cards().indexOf(here);
  const isOnCard = document.activeElement === here;
  const does = {
    "?": showKeys,
    d: nextTheme,
    p: () => hold(!held),
    ArrowLeft: () => go(cards()[place < 0 ? 0 : Math.max(0, place - 1)]),
    ArrowRight: () => go(cards()[Math.min(cards().length - 1, place + 1)]),
  };
  if (here) does.t = () => { const table = here.querySelector("details"); if (table) table.open = !table.open; };
  if (isOnCard && here) does.Enter = () => { here.classList.toggle("wide"); go(here); };
  if (/^[1-9]$/.test(event.key)) does[event.key] = () => go(cards()[event.key - 1]);
  if (!does[event.key]) return;
  event.preventDefault();
  does[event.key]();
}

function showKeys() {
  at = null;
  point();
  document.getElementById("keys").showModal();
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
  setTheme(theme);
  say(`theme: ${theme}`);
  document.getElementById("theme").textContent = theme === "auto" ? "theme" : theme;
}

addEventListener("DOMContentLoaded", () => {
  title = document.title;
  ready(document);
  told = part("news").querySelector("li")?.textContent || "";
  document.getElementById("hold").addEventListener("click", () => hold(!held));
  document.getElementById("theme").addEventListener("click", nextTheme);
  document.getElementById("help").addEventListener("click", showKeys);
  document.addEventListener("keydown", key);
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerleave", () => { at = null; point(); });
  connect();
});
