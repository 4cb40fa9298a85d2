// Passkeys: asks the server what is to be signed, lets the browser's dialogue sign it, and sends the form with the answer.
(() => {
  "use strict";

  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  const base64url = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  // What the browser says, in words; the rest of its errors say nothing that helps.
  const WORDS = {
    NotAllowedError: "No passkey was chosen, or it took too long. Try again.",
    InvalidStateError: "This device holds a passkey of yours already.",
    NotSupportedError: "This device can't hold such a passkey. Take another.",
  };

  class Refused extends Error {}

  async function options(box, form) {
    const body = box.dataset.passkey === "create" ? new URLSearchParams(new FormData(form)) : undefined;
    const reply = await fetch(box.dataset.passkeyOptions, { method: "POST", headers: { Accept: "application/json" }, body });
    const given = await reply.json();
    if (!reply.ok) throw new Refused(`${given.detail} ${given.next_step ?? ""}`.trim());
    given.challenge = bytes(given.challenge);
    if (given.user) given.user.id = bytes(given.user.id);
    for (const key of given.excludeCredentials ?? []) key.id = bytes(key.id);
    return given;
  }

  function answer(credential) {
    const response = {};
    for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) {
      if (credential.response[name]) response[name] = base64url(credential.response[name]);
    }
    return JSON.stringify({ id: credential.id, rawId: base64url(credential.rawId), type: credential.type, response });
  }

  for (const box of document.querySelectorAll("[data-passkey]")) {
    const form = box.closest("form");
    const ask = box.querySelector("[data-passkey-ask]");
    const problem = box.querySelector("[data-passkey-problem]");
    const isHere = new URL(box.dataset.passkeyPlace).origin === location.origin;
    const isKnown = Boolean(window.PublicKeyCredential);
    box.querySelector("[data-passkey-elsewhere]").hidden = isHere;
    box.querySelector("[data-passkey-none]").hidden = isKnown || !isHere;
    ask.hidden = !(isHere && isKnown);

    async function send() {
      problem.hidden = ask.disabled = true;
      try {
        const credential = await navigator.credentials[box.dataset.passkey]({ publicKey: await options(box, form) });
        form.elements.passkey.value = answer(credential);
        form.submit();
      } catch (error) {
        problem.textContent =
          error instanceof Refused ? error.message : (WORDS[error.name] ?? "That didn't work. Reload the page, then try again.");
        problem.hidden = ask.disabled = false;
      }
    }

    if (ask.type === "button") ask.addEventListener("click", send);
    else {
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!ask.disabled) send();
      });
    }
  }
})();
