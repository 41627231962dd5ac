/** The same request as code, to copy. */

import { address } from "./api.js";
import { at, copyButton } from "./dom.js";
import { count } from "./format.js";
import { storedKey } from "./key.js";
import { FORMS } from "./snippets.js";

const SHOWN_CHARACTERS = 8000;

export class Code {
  /** @param {() => object} request the body of the request as it stands */
  constructor(request) {
    this.request = request;
    copyButton(at("copy-code"), () => this.text());
    at("forms").addEventListener("change", () => this.draw());
  }

  text() {
    const form = document.querySelector("[name=form]:checked").value;
    return FORMS[form](address("v1/compress"), this.request(), Boolean(storedKey()));
  }

  draw() {
    const text = this.text();
    const rest = text.length - SHOWN_CHARACTERS;
    const shown = text.slice(0, SHOWN_CHARACTERS);
    at("code").textContent = rest > 0 ? `${shown}\n… ${count(rest)} more characters: Copy takes all of it.` : text;
  }
}
