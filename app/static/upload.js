// Progress of an upload. Without this script the form is a plain one that ends on the same page.
"use strict";

document.querySelectorAll("form[data-upload]").forEach((form) => {
  const progress = form.querySelector("progress");
  const note = form.querySelector("[data-upload-note]");
  const button = form.querySelector("button[type=submit]");
  const input = form.querySelector("input[type=file]");
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

  function say(text, failed = false) {
    note.textContent = text;
    note.classList.toggle("is-error", failed);
  }

  function ready() {
    button.disabled = false;
    progress.hidden = true;
  }

  form.addEventListener("submit", (event) => {
    if (!input.files.length) return;
    event.preventDefault();
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      progress.max = total;
      progress.value = loaded;
      say(loaded < total ? `${megabytes(loaded)} of ${megabytes(total)} sent` : "Sent; looking at its rows …");
    });
    request.addEventListener("load", () => {
      // A refused file comes back as a page of its own that says why.
      if (request.status < 400) location.assign(request.responseURL);
      else {
        const page = new DOMParser().parseFromString(request.responseText, "text/html");
        say(page.querySelector("[data-error]")?.textContent.trim() || `The server refused the file (${request.status}).`, true);
        ready();
      }
    });
    request.addEventListener("error", () => {
      say("The connection broke before the file was there. Nothing is lost: send it again.", true);
      ready();
    });
    button.disabled = true;
    progress.hidden = false;
    progress.removeAttribute("value");
    say(`0 of ${megabytes(input.files[0].size)} sent`);
    request.open("POST", form.action);
    request.send(new FormData(form));
  });
});
