// The comparison desk: keys, the blink, scrolling together, and a choice that survives a lost connection.
// Without this file the desk is a plain form.
(() => {
  "use strict";

  const BLINK = 110; // ms that a choice stays lit before the next pair replaces it
  const RETRY = [1, 2, 4, 8, 15, 30]; // seconds
  const WORDS = { left: "1 better", right: "2 better", tie: "tie", both_bad: "both bad", skip: "skip" };

  const desk = () => document.getElementById("desk");
  const id = (name) => document.getElementById(name);
  const say = (text) => { id("voice").textContent = text; };

  // --- choosing ---------------------------------------------------------------------------------------------------

  let sent = null; // {form, button, at, tries, timer} of the choice that is on its way

  function choose(value, strength) {
    const button = id("choose-" + value);
    if (!button || sent) return;
    if (strength) id("strength-" + strength).checked = true;
    desk().requestSubmit(button);
  }

  // The second click of a double click would land on the pair that came in between.
  document.addEventListener("click", (event) => {
    const undo = event.target.closest("[data-key='u']");
    if ((event.detail > 1 && event.target.closest(".choice")) || (undo && (sent || event.detail > 1))) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  document.addEventListener("submit", (event) => {
    if (event.target !== desk() || !event.submitter?.matches(".choice")) return;
    if (sent && sent.form === event.target && !sent.retrying) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    const { value } = event.submitter;
    sent = { form: event.target, button: event.submitter, at: performance.now(), tries: sent?.form === event.target ? sent.tries : 0 };
    light(event.target, value);
    keep(event.target, value);
  }, true);

  function light(form, value) {
    form.classList.add("pending");
    form.classList.toggle("both-chosen", value === "tie");
    for (const answer of form.querySelectorAll(".answer")) answer.classList.toggle("chosen", answer.dataset.side === value);
    for (const button of form.querySelectorAll(".choice")) button.classList.toggle("chosen", button.value === value);
  }

  function release(form) {
    clearTimeout(sent?.timer);
    sent = null;
    form.classList.remove("pending", "both-chosen");
    for (const lit of form.querySelectorAll(".chosen")) lit.classList.remove("chosen");
    id("connection").hidden = true;
  }

  // A strength that was picked by mistake goes away by a second click.
  let picked = null;
  document.addEventListener("pointerdown", (event) => {
    picked = event.target.closest(".strength label")?.control;
    if (!picked?.checked) picked = null;
  });
  document.addEventListener("click", (event) => {
    if (picked && event.target === picked) picked.checked = false;
  });

  const isVerdict = (event) => sent && event.detail.ctx?.sourceElement === sent.form;

  document.addEventListener("htmx:after:request", (event) => {
    if (!isVerdict(event)) return;
    const { ctx } = event.detail;
    if (ctx.response.status >= 400) return;
    forget();
    ctx.swap = `outerHTML swap:${Math.max(0, Math.round(BLINK - (performance.now() - sent.at)))}ms`;
  });

  document.addEventListener("htmx:after:swap", (event) => {
    const { ctx } = event.detail;
    if (ctx.target?.id !== "desk" || ctx.swap === "none") return;
    clearTimeout(sent?.timer);
    sent = null;
    id("connection").hidden = true;
    arrive(true);
  });

  // --- a lost connection, a busy server, an ended session: the choice is kept and sent again ------------------------

  document.addEventListener("htmx:error", (event) => {
    if (!isVerdict(event)) return;
    event.preventDefault();
    again("The server can't be reached.");
  }, true);

  document.addEventListener("htmx:response:error", (event) => {
    if (!isVerdict(event)) return;
    const { ctx } = event.detail;
    const { status, headers } = ctx.response;
    if (status === 401) return; // the server sends the page to the sign-in; what is kept is sent afterwards
    ctx.swap = "none";
    if (status >= 500 || status === 429) {
      event.preventDefault();
      delete ctx.hx.retarget;
      delete ctx.hx.reswap;
      again(`The server is busy (${status}).`, Number(headers.get("Retry-After")));
    } else {
      forget();
      release(sent.form);
    }
  }, true);

  function again(why, seconds) {
    const { button, form } = sent;
    let left = seconds || RETRY[Math.min(sent.tries, RETRY.length - 1)];
    sent.tries += 1;
    sent.why = why;
    clearTimeout(sent.timer);
    const tick = () => {
      if (left <= 0) return resend();
      show(`${why} Your choice “${WORDS[button.value]}” is kept here and will be sent again in ${left} s.`, left === Math.ceil(left));
      left -= 1;
      sent.timer = setTimeout(tick, 1000);
    };
    form.classList.add("pending");
    tick();
  }

  function resend() {
    if (!sent) return;
    clearTimeout(sent.timer);
    sent.retrying = true;
    sent.form.requestSubmit(sent.button);
  }

  let banner = null;
  function show(text) {
    const box = id("connection");
    if (!banner) {
      banner = document.createElement("span");
      const now = Object.assign(document.createElement("button"), { type: "button", className: "button small", textContent: "Send now" });
      now.addEventListener("click", resend);
      box.append(banner, now);
    }
    banner.textContent = text;
    box.hidden = false;
  }
  window.addEventListener("online", () => { if (sent?.why) resend(); });

  // What is kept belongs to one person and one project; a judgment's token makes sending it twice harmless.
  const shelf = () => `prefloop:choice:${desk().dataset.user}:${desk().dataset.project}`;
  function keep(form, choice) {
    const fields = [...new FormData(form), ["choice", choice]];
    try { localStorage.setItem(shelf(), JSON.stringify({ url: form.action, fields })); } catch { /* private mode: kept on the page only */ }
  }
  function forget() {
    try { localStorage.removeItem(shelf()); } catch { /* as above */ }
  }
  function kept() {
    try { return JSON.parse(localStorage.getItem(shelf())); } catch { return null; }
  }

  // After a reload or a new sign-in: the same pair gets its choice back, another pair's is sent on the side.
  function sendKept() {
    const found = kept();
    if (!found || !desk()) return;
    const fields = new Map(found.fields);
    const form = desk();
    if (form.matches("form") && fields.get("token") === form.elements.token.value) {
      form.elements.rationale.value = fields.get("rationale") ?? "";
      for (const [name, value] of found.fields) {
        const box = form.querySelector(`[name="${CSS.escape(name)}"][value="${CSS.escape(value)}"]`);
        if (box?.type === "radio" || box?.type === "checkbox") box.checked = true;
      }
      choose(fields.get("choice"));
      return;
    }
    fetch(found.url, { method: "POST", body: new URLSearchParams(found.fields), headers: { "HX-Request": "true" } })
      .then((reply) => { if (reply.status < 500) forget(); if (reply.ok) say("Your earlier choice was sent."); })
      .catch(() => {});
  }

  // --- a pair arrives ---------------------------------------------------------------------------------------------

  let expiry;
  function arrive(moved) {
    const form = desk();
    const spoken = form.dataset.said;
    if (moved) {
      window.scrollTo(0, 0);
      const start = id("conversation") ?? id("main");
      start.classList.add("arrived"); // no ring: nobody went there by hand
      start.focus({ preventScroll: true });
      const now = document.querySelector("#progress b")?.textContent;
      say([spoken, form.matches("form") ? `Next pair. ${now} today.` : ""].filter(Boolean).join(" "));
    }
    clearTimeout(expiry);
    const note = form.querySelector("[data-expired]");
    if (form.dataset.until && note) {
      const wait = new Date(form.dataset.until) - Date.now();
      expiry = setTimeout(() => { note.hidden = false; }, Math.min(Math.max(wait, 0), 2 ** 31 - 1));
    }
  }

  // --- keys -------------------------------------------------------------------------------------------------------

  const TYPING = "textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])";
  const SIDEWAYS = "pre, .table-scroll, input"; // arrows have a meaning of their own there

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    const { target } = event;
    if (target.matches(TYPING) && target.checkVisibility()) return; // a closed note keeps the focus until the next frame
    if (document.querySelector("details.menu[open]")) return;
    const open = document.querySelector(".sheet:popover-open");
    const action = actionOf(event, target);
    if (!action || (open && !["help", "note", "flags", "guidelines"].includes(action[0]))) return;
    event.preventDefault();
    if (!event.repeat || action[0] === "scroll") act(...action);
  });

  function actionOf(event, target) {
    const far = event.shiftKey && !/^[0-9]$/.test(event.key); // French keyboards type digits with Shift
    if (event.code === "Digit1" || event.key === "1") return ["choose", "left", far ? 3 : 0];
    if (event.code === "Digit2" || event.key === "2") return ["choose", "right", far ? 3 : 0];
    if (event.key === "0" || (event.code === "Digit0" && !event.shiftKey)) return ["choose", "tie"];
    if (event.key === "?") return ["help"];
    if (event.shiftKey) return null;
    switch (event.key) {
      case "ArrowLeft": return target.closest(SIDEWAYS) ? null : ["choose", "left"];
      case "ArrowRight": return target.closest(SIDEWAYS) ? null : ["choose", "right"];
      case "ArrowUp": return target.closest("input") ? null : ["scroll", -56];
      case "ArrowDown": return target.closest("input") ? null : ["scroll", 56];
      case "PageUp": return ["scroll", -page()];
      case "PageDown": return ["scroll", page()];
      case " ": return target.closest("button, summary, a, input") ? null : ["scroll", page()];
      case "b": return ["choose", "both_bad"];
      case "s": return ["choose", "skip"];
      case "u": return ["undo"];
      case "e": return ["earlier"];
      case "n": return ["note"];
      case "f": return ["flags"];
      case "g": return ["guidelines"];
      case "Escape": return ["leave"];
      default: return null;
    }
  }

  function act(action, value, strength) {
    if (action === "choose") choose(value, strength);
    else if (action === "undo") { if (!sent) document.querySelector("[data-key='u']:not(:disabled)")?.click(); }
    else if (action === "scroll") bodies().length && scrollOn(value);
    else if (action === "earlier") document.querySelector(".earlier > summary")?.click();
    else if (action === "leave") leave();
    else id(action)?.togglePopover();
  }

  function leave() {
    if (id("guidelines").matches(":popover-open")) id("guidelines").hidePopover();
    else document.querySelector(".desk.editing a[data-key='Escape']")?.click();
  }

  // --- scrolling together -----------------------------------------------------------------------------------------

  const bodies = () => [...document.querySelectorAll(".answer-body")];
  const page = () => (bodies()[0]?.clientHeight ?? 400) * 0.85;

  // Down: the rest of the question first, then the answers. Up: the other way round.
  function scrollOn(distance) {
    if (getComputedStyle(document.body).overflowY !== "hidden") return window.scrollBy({ top: distance });
    const question = id("conversation");
    const answers = bodies().reduce((a, b) => (b.scrollHeight > a.scrollHeight ? b : a));
    const unread = question.scrollTop + question.clientHeight < question.scrollHeight - 1;
    const first = distance > 0 ? unread : answers.scrollTop <= 0;
    (first ? question : answers).scrollBy({ top: distance });
  }

  const placed = new WeakMap(); // where we put an answer: the scroll event that this makes is not the reader's
  document.addEventListener("scroll", (event) => {
    const body = event.target;
    if (!(body instanceof Element) || !body.matches(".answer-body")) return;
    if (placed.has(body) && Math.abs(body.scrollTop - placed.get(body)) < 1) return;
    placed.delete(body);
    const share = body.scrollTop / Math.max(1, body.scrollHeight - body.clientHeight);
    for (const other of bodies()) {
      if (other === body) continue;
      other.scrollTop = share * (other.scrollHeight - other.clientHeight);
      placed.set(other, other.scrollTop);
    }
  }, { capture: true, passive: true });

  // --- guidelines -------------------------------------------------------------------------------------------------

  // New ones open by themselves once where there is room beside the answers.
  function offerGuidelines() {
    const drawer = id("guidelines");
    const { version } = id("guidelines-text").dataset;
    const key = `prefloop:guidelines:${drawer.dataset.project}`;
    try {
      if (version === "0" || localStorage.getItem(key) === version) return;
      localStorage.setItem(key, version);
    } catch { return; }
    if (matchMedia("(min-width: 1100px)").matches && desk().matches("form")) drawer.showPopover();
  }

  arrive(false);
  offerGuidelines();
  // After htmx has taken over the form (it does so once the document is ready).
  document.addEventListener("DOMContentLoaded", () => setTimeout(sendKept));
  document.addEventListener("htmx:after:swap", offerGuidelines);
})();
