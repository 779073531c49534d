// Keeps the page up to date without a reload: asks the server for the same page again and changes only
// what differs, so that focus, selection, scroll position and opened details stay as they are. Rests
// while the page is out of sight. Without this script the page is whole, and has a link to reload it.
"use strict";

{
  const EVERY = 5_000;
  const LONGEST = 60_000;
  const live = document.querySelector(".live");
  const words = live.querySelector("[role=status]");
  const said = live.querySelector("time");
  const button = document.createElement("button");
  // A page that says why there is none: it is made good as soon as that can be.
  let trouble = live.dataset.state === "away";
  let tag = null;
  let failures = 0;
  let paused = false;
  let timer = 0;
  let asking = null;

  const say = (state, text) => {
    live.dataset.state = state;
    // A status is read aloud whenever it changes: only what is news is written.
    if (words.textContent !== text) words.textContent = text;
  };

  const away = () => say("away", trouble ? "Trying again since" : "Not live, trying again. Figures are of");

  const key = (node) => node.id || node.dataset?.key || "";

  function change(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.isEqualNode(to)) return;
    // What the reader is choosing is the reader's.
    if (from === document.activeElement && from.matches("select, input")) return;
    for (const { name } of [...from.attributes]) {
      const opened = name === "open" && from.nodeName === "DETAILS";
      if (!opened && !to.hasAttribute(name)) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    changeChildren(from, to);
  }

  function changeChildren(from, to) {
    const known = new Map();
    for (const child of from.children) if (key(child)) known.set(key(child), child);
    let at = from.firstChild;
    for (const next of [...to.childNodes]) {
      const name = key(next);
      const twin = name ? known.get(name) : null;
      if (twin && twin.nodeName === next.nodeName) {
        known.delete(name);
        if (twin === at) at = at.nextSibling;
        else from.insertBefore(twin, at);
        change(twin, next);
      } else if (!name && at && !key(at) && at.nodeName === next.nodeName) {
        const after = at.nextSibling;
        change(at, next);
        at = after;
      } else {
        from.insertBefore(next, at);
      }
    }
    while (at) {
      const after = at.nextSibling;
      at.remove();
      at = after;
    }
  }

  function show(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const from = document.querySelector("main");
    const to = page.querySelector("main");
    if (!to) throw new Error("no page");
    const focused = document.activeElement;
    document.title = page.title;
    change(from, to);
    // A row that moved has lost the focus that was in it.
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  }

  async function ask() {
    asking = new AbortController();
    const limit = setTimeout(() => asking.abort(), LONGEST);
    try {
      const headers = { accept: "text/html" };
      if (tag) headers["if-none-match"] = tag;
      const answer = await fetch(location.href, { headers, cache: "no-store", signal: asking.signal });
      // Elsewhere is where one signs in: the browser goes there itself.
      if (answer.redirected) return location.reload();
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(String(answer.status));
        show(await answer.text());
        tag = answer.headers.get("etag");
      }
      const now = new Date(answer.headers.get("date") ?? Date.now());
      said.dateTime = now.toISOString();
      said.textContent = `${now.toISOString().slice(11, 19)} UTC`;
      failures = 0;
      trouble = false;
      say("live", "Live");
    } catch {
      failures += 1;
      if (!paused) away();
    } finally {
      clearTimeout(limit);
      asking = null;
    }
  }

  function plan(wait) {
    clearTimeout(timer);
    if (paused || document.hidden) return;
    timer = setTimeout(async () => {
      // Whoever is asking already plans what comes next.
      if (asking) return;
      await ask();
      plan(Math.min(EVERY * 2 ** failures, LONGEST));
    }, wait);
  }

  const pause = (on) => {
    paused = on;
    button.textContent = on ? "Go on" : "Pause";
    if (on) {
      clearTimeout(timer);
      asking?.abort();
      say("paused", "Paused. Figures are of");
    } else {
      failures = 0;
      plan(0);
    }
  };

  // A page that takes its time says so; whoever comes back to this one finds it as it was.
  addEventListener("beforeunload", () => say("busy", "Loading. Figures are of"));
  addEventListener("pageshow", (event) => {
    if (event.persisted) pause(false);
  });

  button.type = "button";
  button.addEventListener("click", () => pause(!paused));
  document.addEventListener("visibilitychange", () => plan(0));
  addEventListener("online", () => plan(0));
  live.querySelector("a").replaceWith(button);
  button.textContent = "Pause";
  if (trouble) away();
  else say("live", "Live");
  plan(EVERY);
}
