// What makes the pages livelier. Everything is there without it.
"use strict";

(() => {
  const skew = Date.now() - Date.parse(document.documentElement.dataset.now);

  // To who hears the page.
  function tell(words) {
    document.getElementById("said").textContent = words;
  }

  // --- times ---

  const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

  function about(seconds) {
    for (const [name, unit] of UNITS) if (seconds >= 2 * unit) return `${Math.round(seconds / unit)} ${name}`;
    return `${Math.max(Math.round(seconds), 0)} s`;
  }

  function tick() {
    const now = Date.now() - skew;
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const seconds = (now - Date.parse(time.dateTime)) / 1000;
      const text = seconds >= 0 ? `${about(seconds)} ago` : `in ${about(-seconds)}`;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  setInterval(tick, 1000);

  // --- what belongs to a piece of the page, also after it was fetched anew ---

  function dress(root) {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
    for (const box of root.querySelectorAll("[data-tick-all]")) box.hidden = false;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.closest(".copyable").querySelector("pre").textContent);
    button.textContent = "Copied";
    tell("Copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-tick-all]")) return;
    for (const box of document.querySelectorAll("input[name=selected]")) box.checked = event.target.checked;
  });

  // --- what moves ---
  // The server says that something has moved; the page fetches itself and takes over the parts that differ. A part in
  // which somebody is at work is left alone: what they send then is judged by the server.

  const AGAIN_MS = 5000;
  const main = document.getElementById("main");
  let source = null;
  let broken = false;

  function busy(part) {
    if (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return true;
    for (const field of part.querySelectorAll("input, textarea, select")) {
      if (field.type === "checkbox" ? field.checked !== field.defaultChecked
        : field.tagName === "SELECT" ? [...field.options].some((option) => option.selected !== option.defaultSelected && option.defaultSelected)
        : field.value !== field.defaultValue) return true;
    }
    return false;
  }

  // As the reader has left it. What there is a new cause to open is opened, as it would be when the page is loaded.
  function unfold(part, fresh) {
    const before = new Map([...part.querySelectorAll("details[id]")].map((each) => [each.id, each]));
    for (const each of fresh.querySelectorAll("details[id]")) {
      const old = before.get(each.id);
      if (old) each.open = old.open || Boolean(each.dataset.opens && each.dataset.opens !== old.dataset.opens);
    }
  }

  function takeOver(part, fresh) {
    unfold(part, fresh);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceWith(fresh);
    dress(fresh);
    if (focused) document.getElementById(focused)?.focus();
  }

  // What is shown stays, and so does what is being written; it is no longer followed.
  function loggedOut() {
    delete main.dataset.live;
    listen();
    const notice = document.getElementById("logged-out");
    const here = main.dataset.self || location.pathname + location.search;
    notice.querySelector("a").search = new URLSearchParams({ next: here });
    notice.hidden = false;
    tell(notice.textContent);
  }

  async function refresh() {
    const answer = await fetch(main.dataset.self || location.href, { headers: { Accept: "text/html" } });
    if (answer.status >= 500 || answer.status === 429) throw new Error(answer.statusText);
    if (answer.redirected && new URL(answer.url).pathname === "/admin/login") { loggedOut(); return; }
    if (answer.redirected || !answer.ok) { location.reload(); return; }
    const telling = document.querySelector("[data-tell]")?.textContent;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const fresh of page.querySelectorAll("[data-part]")) {
      const part = document.getElementById(fresh.id);
      if (part && !busy(part)) takeOver(part, document.importNode(fresh, true));
    }
    tick();
    const told = document.querySelector("[data-tell]")?.textContent;
    if (told && told !== telling) tell(told);
    // A stream knows by itself what it has told; it ends with what it tells of.
    const next = page.getElementById("main").dataset.live;
    if (!next && source) { delete main.dataset.live; listen(); }
  }

  let wanted = false;
  let fetching = false;

  async function moved() {
    wanted = true;
    if (fetching || document.hidden) return;
    fetching = true;
    try {
      while (wanted) { wanted = false; await refresh(); }
    } catch {
      // The server or its database is away. The stream need not break with it, so nobody else comes back to this.
      wanted = true;
      setTimeout(() => { if (wanted) moved(); }, AGAIN_MS);
    } finally { fetching = false; }
  }

  // A stream that breaks is opened again by the browser; one that was answered with an error is not.
  async function again() {
    if (!broken || document.hidden) return;
    broken = false;
    await moved();  // who is not logged in any more is told so
    listen();
  }

  function listen() {
    source?.close();
    source = null;
    const sign = document.querySelector("[data-live-state]");
    if (sign) sign.hidden = true;
    if (!main.dataset.live) return;
    source = new EventSource(main.dataset.live);
    source.addEventListener("open", () => { if (sign) sign.hidden = false; });
    source.addEventListener("error", (event) => {
      if (sign) sign.hidden = true;
      broken = event.target === source && source.readyState === EventSource.CLOSED;
      if (broken) setTimeout(again, AGAIN_MS);
    });
    source.addEventListener("moved", moved);
    source.addEventListener("logged-out", loggedOut);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && wanted) moved();
    again();
  });

  // What came of a form is a page of its own; its address is that of what it shows.
  const self = main?.dataset.self;
  if (self && self !== location.pathname) history.replaceState(null, "", self);

  // On a phone the places are wider than the window: the one where the reader is comes into sight.
  const place = document.querySelector("header nav [aria-current]");
  if (place) place.closest("ul").scrollLeft = place.offsetLeft - 60;

  dress(document);
  if (main) listen();
})();
