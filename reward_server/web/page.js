"use strict";
// Keeps the counters up to date. The page is complete without it.
const path = location.pathname.replace(/\/?$/, "/") + "counters";
const show = (key, text) => {
  const place = document.querySelector(`[data-key="${key}"]`);
  if (place && place.textContent !== text) place.textContent = text;
};
async function refresh() {
  if (document.hidden) return;
  const reply = await fetch(path, { cache: "no-store" });
  if (!reply.ok) throw new Error(reply.status);
  const { numbers, verdicts } = await reply.json();
  for (const [key, text] of Object.entries(numbers)) show(key, text);
  for (const [status, { count, share }] of Object.entries(verdicts)) {
    show("status-" + status, count);
    const bar = document.querySelector(`[data-bar="${status}"]`);
    if (bar) bar.setAttribute("width", share);
  }
}
async function keep() {
  let pause = 2000;
  try {
    await refresh();
    document.body.classList.remove("stale");
  } catch (error) {
    document.body.classList.add("stale");
    pause = 10000;
  }
  setTimeout(keep, pause);
}
setTimeout(keep, 2000);
