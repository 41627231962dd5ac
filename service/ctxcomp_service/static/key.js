/** The API key: kept for this tab only, sent to this server only. */

import { at } from "./dom.js";

const NAME = "ctxcomp-key";

/** The key, "" for none. */
export function storedKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

/** Wire the panel; `changed` is called when there is another key. */
export function attachKeyPanel(changed) {
  const use = (key) => {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
    at("key").value = "";
    at("key-panel").open = false;
    say();
    changed();
  };
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = at("key").value.trim();
    // A header carries nothing else, and fetch would throw.
    if (/^[\x21-\x7e]+$/.test(key)) use(key);
    else at("key-note").textContent = "A key has only letters, digits and signs, without spaces.";
  });
  at("key-forget").addEventListener("click", () => use(""));
  at("key-panel").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    at("key-panel").open = false;
    at("key-panel").querySelector("summary").focus();
  });
  say();
}

/** Open the panel, with the cursor in its field. */
export function askForKey() {
  at("key-panel").open = true;
  at("key").focus();
}

function say() {
  at("key-state").textContent = storedKey() ? ": in use" : "";
}
