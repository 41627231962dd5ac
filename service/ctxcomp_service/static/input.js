/** What the user gives: the question, and passages pasted, opened or dropped. */

import { at, element } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { count, countOf } from "./format.js";
import { clean, gather, InputProblem, passagesOf, readFile } from "./passages.js";

export class Input {
  /** @param {(how: "typing" | "choice") => void} changed called when the question or the passages are others */
  constructor(changed) {
    this.files = [];
    this.passages = [];
    this.changed = changed;
    EXAMPLES.forEach(({ name }, i) => at("example").append(element("option", { value: String(i), textContent: name })));
    at("query").addEventListener("input", () => changed("typing"));
    at("pasted").addEventListener("input", () => this.update("typing"));
    at("example").addEventListener("change", (event) => this.load(EXAMPLES[event.target.value]));
    at("clear").addEventListener("click", () => this.load({ query: "", text: "" }));
    at("open").addEventListener("click", () => at("files").click());
    at("files").addEventListener("change", (event) => this.open(event.target.files));
    for (const radio of document.querySelectorAll("[name=split]")) {
      radio.addEventListener("change", () => this.update("choice"));
    }
    this.acceptDrops();
  }

  get query() {
    return clean(at("query").value);
  }

  get split() {
    return document.querySelector("[name=split]:checked").value;
  }

  /** Replace everything by an example. */
  load({ query, text, split = this.split }) {
    at("query").value = query;
    at("pasted").value = text;
    document.querySelector(`[name=split][value=${split}]`).checked = true;
    at("example").value = "";
    this.files = [];
    this.say("");
    this.update("choice");
  }

  /** Add files; those that cannot be read are named, the others are taken. */
  async open(files) {
    const read = await Promise.allSettled([...files].map(readFile));
    at("files").value = "";
    const failures = read.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
    this.say(failures.map(explain).join(" "));
    const added = read.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
    if (added.length === 0) return;
    if (EXAMPLES.some(({ text }) => text === at("pasted").value)) at("pasted").value = "";
    this.files.push(...added);
    this.update("choice");
  }

  acceptDrops() {
    const area = at("drop");
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      area.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || area.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      area.classList.remove("over");
      if (!holdsFiles(event)) return;
      event.preventDefault();
      this.open(event.dataTransfer.files);
    });
  }

  update(how) {
    this.passages = gather(at("pasted").value, this.files, this.split);
    const characters = this.passages.reduce((sum, { text }) => sum + text.length, 0);
    at("size").textContent = `${countOf(this.passages.length, "passage")}, ${count(characters)} characters`;
    at("file-list").replaceChildren(...this.files.map((file) => this.fileItem(file)));
    this.changed(how);
  }

  fileItem(file) {
    const remove = element("button", { type: "button", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => {
      this.files = this.files.filter((other) => other !== file);
      this.update("choice");
      at("open").focus();
    });
    const passages = countOf(passagesOf(file, this.split).length, "passage");
    const name = element("bdi", { textContent: file.name });
    return element("li", {}, name, element("span", { className: "note", textContent: passages }), remove);
  }

  say(problem) {
    at("input-problem").textContent = problem;
    at("input-problem").hidden = !problem;
  }
}

function explain(error) {
  return error instanceof InputProblem ? error.message : "A file could not be read.";
}
