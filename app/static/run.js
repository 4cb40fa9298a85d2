// The run page around its charts: says whether the stream is alive, comes back to it, and keeps the log at its end.
"use strict";

(() => {
  const stream = document.querySelector("[data-run-stream]");
  const note = document.querySelector("[data-run-connection]");
  const log = document.getElementById("run-log");
  if (log) log.scrollTop = log.scrollHeight;
  if (!stream || !note) return;

  const say = (state, text) => {
    note.dataset.state = state;
    note.textContent = text;
  };

  say("waiting", "Connecting …");
  stream.addEventListener("htmx:sse:after:connection", () => say("live", "Live"));
  stream.addEventListener("htmx:sse:error", () => say("waiting", "Reconnecting …"));
  stream.addEventListener("htmx:sse:close", (event) => {
    if (event.detail.reason === "message") note.hidden = true;
    else say("waiting", "Reconnecting …");
  });

  // The extension comes back by itself once it was connected; a first connection that fails is ours to try again.
  stream.addEventListener("htmx:error", (event) => {
    event.preventDefault();
    say("waiting", "Reconnecting …");
    setTimeout(() => htmx.trigger(stream, "reconnect"), 2000);
  });

  // A reader who has scrolled up to read an earlier line stays there.
  let follows = true;
  log?.addEventListener("scroll", () => { follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24; });
  stream.addEventListener("htmx:sse:after:message", () => { if (follows && log) log.scrollTop = log.scrollHeight; });
})();
