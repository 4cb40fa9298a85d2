// The run page around its charts: stays connected while somebody sees it, says so, and keeps the log at its end.
//
// A browser opens six connections to a server, for all tabs together. So a tab that nobody sees has none, and of those
// that are seen only as many keep one as there are slots. The others ask every few seconds for what is new: the server
// then ends its answer at once, and EventSource comes again by itself with the id of the last event.
"use strict";

(() => {
  const page = document.querySelector("[data-run-stream]");
  const note = document.querySelector("[data-run-connection]");
  const log = document.getElementById("run-log");
  if (log) log.scrollTop = log.scrollHeight;
  if (!page || !note) return;

  const SLOTS = 3;
  const SLOT_AGAIN = 5000;
  const LONGEST_PAUSE = 8000;
  const address = new URL(page.dataset.runStream, location.href);

  let source = null;      // the EventSource in use
  let giveBack = null;    // ends the hold on a slot
  let visit = 0;          // counts up whenever a connection begins or ends: what was begun before it is void
  let pause = 1000;       // before a new try, where the server or a proxy refused
  let timer = 0;
  let drawn = Promise.resolve();

  const say = (state, text) => {
    note.dataset.state = state;
    note.textContent = text;
  };

  // A slot's lock ends with its tab, however that goes. Where a page has no locks (plain HTTP under another name than
  // localhost) there are no slots.
  async function slot() {
    for (let number = 0; navigator.locks && number < SLOTS; number += 1) {
      const held = await new Promise((answer) => {
        const hold = (lock) => lock ? new Promise((free) => answer(free)) : answer(null);
        navigator.locks.request(`prefloop-stream-${number}`, { ifAvailable: true }, hold).catch(() => answer(null));
      });
      if (held) return held;
    }
    return null;
  }

  function leave() {
    visit += 1;
    clearTimeout(timer);
    source?.close();
    giveBack?.();
    source = giveBack = null;
    delete note.dataset.mode;
  }

  async function connect() {
    leave();
    const mine = visit;
    const held = await slot();
    if (mine !== visit) {
      held?.();
      return;
    }
    giveBack = held;
    open(Boolean(held));
  }

  function open(wait) {
    const mine = visit;
    let opened = false;  // the end of a short answer is news only where nothing came
    address.searchParams.set("wait", wait);
    note.dataset.mode = wait ? "stream" : "ask";
    source = new EventSource(address);
    source.onopen = () => {
      pause = 1000;
      opened = true;
      say("live", "Live");
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {  // it gives up on anything but a stream
        say("waiting", "Reconnecting …");
        leave();
        timer = setTimeout(connect, pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE);
        return;
      }
      if (wait || !opened) say("waiting", "Reconnecting …");
      opened = false;
    };
    source.onmessage = (event) => {
      remember(event);
      drawn = drawn.then(() => draw(event.data)).catch(console.error);
    };
    source.addEventListener("points", (event) => {
      remember(event);
      page.dispatchEvent(new CustomEvent("points", { detail: JSON.parse(event.data) }));
    });
    source.addEventListener("end", () => {
      leave();
      document.removeEventListener("visibilitychange", look);
      note.hidden = true;
    });
    if (!wait) timer = setTimeout(() => upgrade(mine), SLOT_AGAIN);
  }

  // Whoever asks tries for a slot that somebody left.
  async function upgrade(mine) {
    const held = await slot();
    if (mine !== visit) {
      held?.();
    } else if (held) {
      leave();
      giveBack = held;
      open(true);
    } else {
      timer = setTimeout(() => upgrade(mine), SLOT_AGAIN);
    }
  }

  const remember = (event) => {
    if (event.lastEventId) address.searchParams.set("after", event.lastEventId);
  };

  // A reader who has scrolled up to read an earlier line stays there.
  let follows = true;
  log?.addEventListener("scroll", () => { follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24; });
  async function draw(text) {
    await htmx.swap({ text, sourceElement: page, target: page, swap: "none swapEmpty:false" });
    if (follows && log) log.scrollTop = log.scrollHeight;
  }

  function look() {
    if (!document.hidden) connect();
    else {
      leave();
      say("waiting", "Paused");
    }
  }

  say("waiting", "Connecting …");
  document.addEventListener("visibilitychange", look);
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => { if (event.persisted) look(); });
  if (!document.hidden) connect();
})();
