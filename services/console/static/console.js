// Keeps pages live, and lets a keyboard do what a mouse does. No page needs it to be read.
"use strict";

const wait = 250; // milliseconds: changes within them reload a part once
const pause = 1000; // milliseconds until a part that is used is looked at again
const mostLooks = 30; // after which a part is replaced although text of it is marked, or a filter filled

function reloadLater(part) {
  if (part.dataset.waiting) return;
  part.dataset.waiting = "yes";
  setTimeout(() => {
    delete part.dataset.waiting;
    if (isUsed(part)) reloadLater(part);
    else window.htmx.trigger(part, "live");
  }, part.dataset.used ? pause : wait);
}

// Whether a person writes or chooses in a part, or has just filled a filter or marked text of it: then it is replaced later.
function isUsed(part) {
  const looks = Number(part.dataset.used || 0), active = document.activeElement;
  const chosen = part.contains(active) && active.matches("input, select, textarea, .filters button");
  const changed = (fields) => [...part.querySelectorAll(fields)].some((field) => field.value !== field.defaultValue);
  const marked = !getSelection().isCollapsed && getSelection().containsNode(part, true);
  const used = chosen || changed("textarea") || (looks < mostLooks && (marked || changed("input")));
  if (used) part.dataset.used = looks + 1;
  return used;
}

function reachWithKeys() {
  for (const part of document.querySelectorAll(".scroll, pre")) {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

// Names each cell after its column: a narrow screen shows rows as cards.
function labelCells() {
  for (const table of document.querySelectorAll("table")) {
    const names = [...table.querySelectorAll("thead th")].map((each) => each.innerText.replace(/\s+/g, " "));
    for (const cell of table.querySelectorAll("tbody td:not(.name, [colspan])")) {
      if (names[cell.cellIndex] && !cell.parentElement.querySelector("[rowspan]")) cell.dataset.label = names[cell.cellIndex];
    }
  }
}

function followChanges() {
  if (!document.querySelector("[data-live]")) return;
  const source = new EventSource(`/stream?since=${document.documentElement.dataset.readAt}`);
  let opened = false;
  source.addEventListener("change", (event) => {
    const topics = new Set(JSON.parse(event.data));
    for (const part of document.querySelectorAll("[data-live]")) {
      if (topics.has("all") || part.dataset.live.split(" ").some((topic) => topics.has(topic))) reloadLater(part);
    }
  });
  source.addEventListener("open", () => {
    if (opened) document.querySelectorAll("[data-live]").forEach(reloadLater); // what was missed meanwhile
    opened = true;
    setConnection("live");
  });
  source.addEventListener("error", () => setConnection("lost"));
}

function setConnection(state) {
  const root = document.documentElement, bar = document.querySelector(".lost");
  if (state === "lost" && root.dataset.connection !== state) bar.querySelector(".since").textContent = new Date().toISOString().slice(11, 16);
  root.dataset.connection = state;
  bar.hidden = state !== "lost";
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
}

let before = "";
const pages = { f: "/fleet", r: "/releases", a: "/alerts", t: "/timeline", e: "/endpoints", h: "/history" };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const key = event.key;
  if (before === "g" && pages[key]) location.assign(pages[key]);
  else if (key === "?") document.querySelector("#keys")?.showModal();  // null while the page is still coming
  else if (key === "/") { event.preventDefault(); document.querySelector(".filters input")?.focus(); }
  else if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
  before = key;
}

function move(step) {
  const rows = [...document.querySelectorAll("td.name a")];
  if (rows.length === 0) return;
  const now = rows.indexOf(document.activeElement);
  rows[Math.min(rows.length - 1, Math.max(0, now + step))].focus();
}

const kept = new Map(); // by the id of a part that is about to be replaced: what a person has moved, opened and focused

// Returns what may be moved, opened or focused in a part, by a name that it has again in the part's next version.
function named(part) {
  const kinds = [".scroll", "pre", "details", "summary"];
  const own = kinds.flatMap((kind) => [...part.querySelectorAll(kind)].map((each, number) => [`${kind} ${number}`, each]));
  return new Map([...[...part.querySelectorAll("a[href]")].reverse().map((link) => [link.getAttribute("href"), link]), ...own]);
}

function noteUse(event) {
  const part = event.detail.target;
  const own = [...named(part)].filter(([, each]) => each.tagName !== "A");
  const focused = [...named(part)].find(([, each]) => each === document.activeElement)?.[0] || document.activeElement.getAttribute("href");
  kept.set(part.id, {
    focused: part.contains(document.activeElement) ? focused : null,
    moved: own.map(([name, each]) => [name, each.scrollLeft, each.scrollTop, each.open, each.dataset.open]),
  });
}

function keepUse(event) {
  const part = document.getElementById(event.detail.target.id), use = kept.get(event.detail.target.id);
  kept.delete(event.detail.target.id);
  if (!part || !use) return;
  const own = named(part);
  for (const [name, left, top, open, first] of use.moved) {
    const each = own.get(name);
    if (!each) continue;
    if (open !== undefined && each.dataset.open === first) each.open = open; // else its step has begun or ended
    each.scrollLeft = left;
    each.scrollTop = top;
  }
  if (document.activeElement === document.body) own.get(use.focused)?.focus({ preventScroll: true });
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-theme-button]")) changeTheme();
  if (event.target.closest("[data-keys-button]")) document.querySelector("#keys").showModal();
});
document.addEventListener("change", (event) => { if (event.target.matches(".filters select")) event.target.form.requestSubmit(); });
document.addEventListener("DOMContentLoaded", () => { followChanges(); labelCells(); reachWithKeys(); });
document.addEventListener("htmx:beforeSwap", noteUse);
document.addEventListener("htmx:afterSwap", (event) => { reachWithKeys(); keepUse(event); });
document.addEventListener("htmx:afterSettle", () => { labelCells(); reachWithKeys(); });
window.addEventListener("resize", reachWithKeys);
