// Small comforts for every page. Each page works without this file.
(() => {
  "use strict";

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      try {
        await navigator.clipboard.writeText(copy.dataset.copy);
        say("Copied.");
        copy.classList.add("copied");
        setTimeout(() => copy.classList.remove("copied"), 1200);
      } catch {
        say("The browser does not let this page copy; select the text instead.");
      }
    }
    event.target.closest("[data-dismiss]")?.closest("[data-flash]")?.remove();
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // w: texts as they were written, and back.
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])");
    const held = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.repeat || event.isComposing;
    const box = document.getElementById("written");
    if (event.key !== "w" || held || event.defaultPrevented || !box || (typing && event.target.checkVisibility())) return;
    event.preventDefault();
    box.click();
    say(box.checked ? "Texts as they were written." : "Texts formatted.");
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && !confirm(form.dataset.confirm)) {
      event.preventDefault();
      return;
    }
    if (form.matches("[data-theme-form]")) {
      event.preventDefault();
      setTheme(form, event.submitter?.value ?? "auto");
    } else if (form.method === "post" && !event.defaultPrevented) {
      once(form, event);
    }
  });

  // A second click on a form that is on its way does nothing; coming back to the page by "Back" frees it again.
  function once(form, event) {
    if (form.matches("[hx-post]")) return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  }
  window.addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });

  function setTheme(form, theme) {
    document.documentElement.dataset.theme = theme;
    for (const button of form.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === theme));
    fetch(form.action, { method: "POST", body: new URLSearchParams({ theme, next: location.pathname }), redirect: "manual" });
  }

  // A browser can't point at a wrong field in a part that is closed, and then says nothing at all.
  document.addEventListener("invalid", (event) => {
    const closed = event.target.closest("details:not([open])");
    if (closed) closed.open = true;
  }, true);

  // One polite voice for what has no other place on the page.
  let voice;
  function say(text) {
    voice ??= document.body.appendChild(Object.assign(document.createElement("div"), { className: "visually-hidden" }));
    voice.setAttribute("role", "status");
    voice.textContent = text;
  }

  // An error is for people: the server sends it to the top of the page. What a proxy says goes nowhere else either.
  document.addEventListener("htmx:response:error", (event) => {
    const { ctx } = event.detail;
    const expected = ctx.sourceElement.getAttributeNames?.().some((name) => name.startsWith("hx-status"));
    if (event.defaultPrevented || expected || ctx.hx.retarget || ctx.hx.redirect) return;
    ctx.swap = "none";
    flash(`The server answered ${ctx.response.status}. Reload the page to see where things stand.`);
  });
  document.addEventListener("htmx:error", (event) => {
    if (!event.defaultPrevented) flash("The server can't be reached. Check the connection, then try again.");
  });

  function flash(text) {
    const box = Object.assign(document.createElement("div"), { className: "flash bad" });
    box.dataset.flash = "";
    const words = Object.assign(document.createElement("span"), { textContent: text });
    const close = Object.assign(document.createElement("button"), { type: "button", className: "button quiet", textContent: "Dismiss" });
    close.dataset.dismiss = "";
    box.append(words, close);
    document.getElementById("flashes").replaceChildren(box);
  }

  // A list that keeps itself up to date rests while nobody sees it.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden && event.detail.ctx.sourceElement.matches?.("[hx-trigger^='every']")) event.preventDefault();
  });

  const formatter = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  function localTimes(root) {
    for (const time of root.querySelectorAll("time[data-ago]")) time.title = formatter.format(new Date(time.dateTime));
  }
  localTimes(document);
  document.addEventListener("htmx:after:swap", () => localTimes(document));
})();
