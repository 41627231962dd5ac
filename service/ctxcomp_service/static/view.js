/** The passages with their units marked, one column a method. */

import { pieces } from "./difference.js";
import { element, visible } from "./dom.js";
import { count, countOf, score } from "./format.js";

/** What is shown at first, and more with each "Show more": a browser does not scroll well through 100,000 sentences. */
const PAGE = { units: 1500, characters: 100_000 };

export class View {
  constructor(container, more) {
    this.container = container;
    this.more = more;
    this.pages = 1;
    this.marks = new Map(); // a unit's element -> where the unit is found in the results
    more.querySelector("button").addEventListener("click", () => {
      this.pages += 1;
      this.build();
    });
  }

  /**
   * Show passages.
   * @param results one for each method, null where there is none yet
   * @param names of the methods
   */
  show(passages, results, names) {
    const painted =
      passages === this.passages &&
      results.length === this.results.length &&
      results.every((result, side) => result === this.results[side] || result?.sameUnits(this.results[side]));
    if (passages !== this.passages) this.pages = 1;
    Object.assign(this, { passages, results, names });
    if (painted) this.paint();
    else this.build();
  }

  /** Make all elements anew. */
  build() {
    this.marks.clear();
    const room = { units: PAGE.units * this.pages, characters: PAGE.characters * this.pages };
    const sections = [];
    for (let p = 0; p < this.passages.length && room.units > 0 && room.characters > 0; p += 1) {
      sections.push(this.section(p, room));
    }
    this.container.replaceChildren(...sections);
    this.container.querySelector(".unit")?.setAttribute("tabindex", "0");
    this.more.hidden = sections.length === this.passages.length && !room.cut;
    this.more.querySelector("span").textContent =
      `The page shows the beginning only, ${count(sections.length)} of ${countOf(this.passages.length, "passage")}. ` +
      "The figures and the copied text are for all of it.";
    this.paint();
  }

  section(p, room) {
    const { text, title, id } = this.passages[p];
    const lists = this.results.map((result) => result?.byPassage[p] ?? []);
    const stop = takeRoom(text, lists, room);
    const cells = lists.map((units, side) => {
      const body = this.results[side] ? this.items(p, side, text, stop) : [visible(text.slice(0, stop))];
      const rest = stop < text.length ? " […]" : "";
      const share = element("p", { className: "share note" });
      const shown = element("div", { className: "text", dir: "auto" }, ...body, rest);
      return element("div", { className: "cell" }, share, shown);
    });
    const number = element("span", { className: "number", textContent: `${p + 1}` });
    const name = element("bdi", { textContent: visible(title || id || "") });
    const cellsBox = element("div", { className: "cells" }, ...cells);
    return element("section", { className: "passage" }, element("h3", {}, number, " ", name), cellsBox);
  }

  /** One element for each unit, with what stands before it; the unit proper is an element inside. */
  items(p, side, text, stop) {
    let cursor = 0;
    const units = this.results[side].byPassage[p].filter((unit) => unit.start < stop);
    const items = units.map((unit, index) => {
      const mark = element("span", { className: "unit", tabIndex: -1 });
      const item = element("span", {}, visible(text.slice(cursor, unit.start)), mark);
      cursor = unit.end;
      this.marks.set(mark, { p, side, index, item, end: Math.min(unit.end, stop), drawn: "" });
      return item;
    });
    return [...items, visible(text.slice(cursor, stop))];
  }

  /** Mark what is kept; elements stay, so that focus and scrolling do. */
  paint() {
    const both = this.results.length === 2 && this.results.every(Boolean);
    const ranges = both ? this.results.map((result) => result.ranges()) : null;
    for (const [mark, place] of this.marks) {
      const unit = this.unitOf(place);
      place.item.className = unit.kept ? "kept" : "dropped";
      const others = unit.kept && ranges ? ranges[1 - place.side][place.p] : null;
      drawUnit(mark, place, this.passages[place.p].text, unit, others);
    }
    this.container.querySelectorAll(".passage").forEach((section, p) => this.paintShares(section, p));
  }

  paintShares(section, p) {
    let keptHere = false;
    section.querySelectorAll(".share").forEach((share, side) => {
      const units = this.results[side]?.byPassage[p] ?? [];
      const kept = units.filter((unit) => unit.kept).length;
      keptHere ||= kept > 0 || !this.results[side];
      const name = this.results.length > 1 ? `${this.names[side]}: ` : "";
      const said = this.results[side] ? `kept ${count(kept)} of ${count(units.length)}` : "";
      share.replaceChildren(element("span", { className: "of", textContent: name }), said);
    });
    section.classList.toggle("empty", !keptHere);
  }

  unitOf({ side, p, index }) {
    return this.results[side].byPassage[p][index];
  }

  /** What to say of a unit's element. */
  describe(mark) {
    const place = this.marks.get(mark);
    const unit = this.unitOf(place);
    const { units, scored } = this.results[place.side];
    const words = [unit.kept ? "Kept" : "Dropped"];
    const only = [...mark.querySelectorAll(".only")].map((part) => part.textContent).join("");
    if (only) words.push(only === mark.textContent ? "not by the other method" : "in part by the other method");
    if (!scored) words.push("all scores are equal");
    else words.push(`score ${score(unit.score)}`, `rank ${count(unit.rank)} of ${count(units.length)}`);
    return words.join(" · ");
  }
}

/** How much of a passage is shown: up to this character, so that neither units nor characters get too many. */
function takeRoom(text, lists, room) {
  let stop = Math.min(text.length, room.characters);
  for (const units of lists) if (units.length > room.units) stop = Math.min(stop, units[room.units].start);
  if (stop < text.length && /[\udc00-\udfff]/.test(text[stop])) stop -= 1;
  room.cut = stop < text.length;
  room.characters -= room.cut ? room.characters : stop;
  room.units -= 1 + Math.max(...lists.map((units) => units.length));
  return stop;
}

/** The text of one unit; what only this method kept is set apart. */
function drawUnit(mark, place, text, unit, others) {
  const whole = { start: unit.start, end: place.end, shared: true };
  const cut = others ? pieces(text, whole.start, whole.end, others) : [whole];
  const drawn = cut.map((piece) => `${piece.end}${piece.shared}`).join();
  if (drawn === place.drawn) return;
  place.drawn = drawn;
  mark.replaceChildren(
    ...cut.map(({ start, end, shared }) => {
      const words = visible(text.slice(start, end));
      return shared ? words : element("span", { className: "only", textContent: words });
    }),
  );
}
