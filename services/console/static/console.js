// Keeps pages live, and lets a keyboard do what a mouse does. No page needs it to be read.
"use strict";

const wait = 250; // milliseconds: changes within them reload a part once

function reloadLater(part) {
  if (part.dataset.waiting) return;
  part.dataset.waiting = "yes";
  setTimeout(() => {
    delete part.dataset.waiting;
    const chosen = part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
    const typed = [...part.querySelectorAll("textarea")].some((area) => area.value !== area.defaultValue);
    if (!chosen && !typed) window.htmx.trigger(part, "live");
  }, wait);
}

function reachWithKeys() {
  for (const part of document.querySelectorAll(".scroll, pre")) {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

function followChanges() {
  if (!document.querySelector("[data-live]")) return;
  const source = new EventSource(`/api/v1/stream?since=${document.documentElement.dataset.readAt}`);
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
    document.documentElement.dataset.connection = "live";
  });
  source.addEventListener("error", () => { document.documentElement.dataset.connection = "lost"; });
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
}

let before = "";
const pages = { f: "/fleet", r: "/releases", a: "/alerts", t: "/timeline", e: "/endpoints", d: "/drills", u: "/audit", h: "/history", l: "/deadletters" };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const key = event.key;
  if (before === "g" && pages[key]) location.assign(pages[key]);
  else if (key === "?") document.querySelector("#keys").showModal();
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

let chosen = ""; // address of the link that has the focus in a part that is about to be replaced

function noteFocus(event) {
  const active = document.activeElement;
  chosen = (event.detail.target.contains(active) && active.getAttribute("href")) || "";
}

function keepFocus() {
  if (chosen && document.activeElement === document.body) {
    [...document.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === chosen)?.focus();
  }
  chosen = "";
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-theme-button]")) changeTheme();
  if (event.target.closest("[data-keys-button]")) document.querySelector("#keys").showModal();
});
document.addEventListener("change", (event) => { if (event.target.matches(".filters select")) event.target.form.requestSubmit(); });
document.addEventListener("DOMContentLoaded", () => { followChanges(); reachWithKeys(); });
document.addEventListener("htmx:beforeSwap", noteFocus);
document.addEventListener("htmx:afterSettle", () => { reachWithKeys(); keepFocus(); });
window.addEventListener("resize", reachWithKeys);
