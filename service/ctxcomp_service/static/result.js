/** An answer of the server, made ready for showing: offsets for JavaScript, ranks, ranges. */

import { keptRanges } from "./difference.js";
import { estimate, ranks } from "./keep.js";
import { utf16Offsets } from "./offsets.js";

export class Result {
  /** @param passages the ones that were sent, @param answer what POST /v1/compress returned with scores */
  constructor(passages, answer, seconds) {
    this.passages = passages;
    this.text = answer.text;
    this.stats = answer.stats;
    this.secondsInAll = seconds;
    // Without scores there are only the spans: what is not in them was dropped.
    this.units = units(passages, answer.units ?? answer.spans.map((span) => ({ ...span, kept: true })));
    this.byPassage = passages.map(() => []);
    for (const unit of this.units) this.byPassage[unit.passage].push(unit);
    this.scored = this.units.some((unit) => unit.score !== this.units[0].score);
  }

  /** Show what would be kept at another `keep`, until the server says it. */
  guess(keep) {
    const kept = estimate(this.units, keep);
    if (kept) this.units.forEach((unit, i) => (unit.kept = kept[i]));
  }

  /** Back to what the server said. */
  restore() {
    for (const unit of this.units) unit.kept = unit.answered;
  }

  /** The kept stretches of each passage. */
  ranges() {
    return this.byPassage.map((own, p) => keptRanges(this.passages[p].text, own));
  }

  /** Whether another result has the same units, so that only their marks differ. */
  sameUnits(other) {
    return (
      this.passages === other?.passages &&
      this.units.length === other.units.length &&
      this.units.every((unit, i) => unit.start === other.units[i].start && unit.end === other.units[i].end)
    );
  }
}

function units(passages, rows) {
  const offsets = passages.map(() => null);
  const rank = ranks(rows);
  return rows.map(({ passage, start, end, score, kept }, i) => {
    const utf16 = (offsets[passage] ??= utf16Offsets(passages[passage].text));
    return { passage, start: utf16(start), end: utf16(end), score, kept, answered: kept, rank: rank[i] };
  });
}
