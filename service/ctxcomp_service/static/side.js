/** One method: its choice, its request to the server, and the figures of its result. */

import { ApiError, compress } from "./api.js";
import { at, copyButton, element } from "./dom.js";
import { count, dollars, percent, seconds } from "./format.js";
import { Result } from "./result.js";

const CALLS = 1000;

const ADVICE = {
  large: "Remove passages, or use the library or the command line, which have no such limit.",
  slow: "Try less text or a faster method.",
  network: "Is it running? Check the connection.",
  server: "The server's log says more.",
};

export class Side {
  /**
   * @param {() => void} changed called when there is something new to show
   * @param {() => void} retry called when the user or the clock wants another try
   */
  constructor(changed, retry) {
    this.element = at("side").content.firstElementChild.cloneNode(true);
    this.select = this.find("select");
    this.result = null;
    this.waiting = false;
    this.lastError = null;
    this.changed = changed;
    this.retry = retry;
    this.abort = null;
    this.clock = 0;
    copyButton(this.find(".copy"), () => this.result?.text ?? "");
    this.find(".problem button").addEventListener("click", () => this.retry(this.lastError?.kind));
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  get method() {
    return this.select.value;
  }

  offer(methods, chosen) {
    this.select.replaceChildren(...methods.map(({ name }) => element("option", { value: name, textContent: name })));
    this.select.value = methods.some(({ name }) => name === chosen) ? chosen : methods[0].name;
  }

  /** Ask the server; an answer to an older question is never shown. */
  async ask(body, key) {
    this.stop();
    const abort = (this.abort = new AbortController());
    this.waiting = true;
    this.changed();
    try {
      const began = performance.now();
      const answer = await compress({ ...body, method: this.method }, { key, signal: abort.signal });
      if (abort.signal.aborted) return;
      this.result = new Result(body.passages, answer, (performance.now() - began) / 1000);
      this.fail(null);
    } catch (error) {
      if (abort.signal.aborted) return;
      this.result?.restore();
      this.fail(error instanceof ApiError ? error : new ApiError("server", "The answer could not be read."));
    }
    this.waiting = false;
    this.changed();
  }

  /** Forget the running request and any planned one. */
  stop() {
    this.abort?.abort();
    clearInterval(this.clock);
    this.waiting = false;
  }

  /** There is nothing to compress any more. */
  forget() {
    this.stop();
    this.result = null;
    this.fail(null);
  }

  /** Say what went wrong and what to do; null when nothing did. */
  fail(error) {
    this.lastError = error;
    const button = this.find(".problem button");
    this.find(".problem").hidden = error === null;
    this.find(".problem span").textContent = error ? [error.message, ADVICE[error.kind]].filter(Boolean).join(" ") : "";
    button.textContent = error?.kind === "key" ? "Enter a key" : "Try again";
    if (error?.retrySeconds) this.countDown(button, error.retrySeconds);
  }

  countDown(button, from) {
    let left = from;
    const tick = () => {
      button.textContent = `Try again (by itself in ${left} s)`;
      if (left === 0) {
        clearInterval(this.clock);
        this.retry();
      }
      left -= 1;
    };
    tick();
    this.clock = setInterval(tick, 1000);
  }

  /** Figures; `price` is dollars per million tokens, `summary` what the method does. */
  draw(price, summary) {
    const { classList } = this.element;
    classList.toggle("waiting", this.waiting);
    classList.toggle("failed", Boolean(this.lastError));
    this.element.setAttribute("aria-busy", String(this.waiting));
    const stats = this.result?.stats;
    const saved = stats ? stats.tokens_in - stats.tokens_out : 0;
    const figures = stats && {
      tokens: `${count(stats.tokens_in)} → ${count(stats.tokens_out)}`,
      saved: percent(stats.tokens_in ? saved / stats.tokens_in : 0),
      cost: dollars((saved * price * CALLS) / 1e6),
      time: seconds(stats.seconds),
    };
    for (const place of this.element.querySelectorAll("[data-figure]")) {
      place.textContent = figures ? figures[place.dataset.figure] : "–";
    }
    const notes = stats ? [`counted by ${stats.counter}`, `round trip ${seconds(this.result.secondsInAll)}`] : [];
    if (stats?.fallback) notes.unshift(`the method failed (${stats.fallback}) and this is the input as it came`);
    classList.toggle("fallback", Boolean(stats?.fallback));
    this.find(".summary").textContent = [summary, ...notes].filter(Boolean).join(" · ");
    this.find(".copy").disabled = !stats;
  }
}
