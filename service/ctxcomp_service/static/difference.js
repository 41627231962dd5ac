/** What one method kept and the other did not, by characters: the units may differ, sentences here, words there. */

/** The kept stretches of one passage's text, `[start, end]`; units with only white space between them are joined. */
export function keptRanges(text, units) {
  const ranges = [];
  for (const { start, end, kept } of units) {
    if (!kept) continue;
    const last = ranges.at(-1);
    if (last && !text.slice(last[1], start).trim()) last[1] = end;
    else ranges.push([start, end]);
  }
  return ranges;
}

/** A unit cut into pieces `{start, end, shared}`: `shared` where `others`, sorted ranges, hold it too. */
export function pieces(text, start, end, others) {
  const found = [];
  const add = (a, b, shared) => {
    if (a >= b) return;
    const last = found.at(-1);
    if (last && (last.shared === shared || !text.slice(a, b).trim())) last.end = b;
    else found.push({ start: a, end: b, shared });
  };
  let at = start;
  for (let i = firstAfter(others, start); i < others.length && others[i][0] < end; i += 1) {
    const [a, b] = others[i];
    add(at, Math.max(a, at), false);
    add(Math.max(a, at), Math.min(b, end), true);
    at = Math.min(b, end);
  }
  add(at, end, false);
  return found;
}

function firstAfter(ranges, offset) {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle][1] <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The characters that both kept, and that only one of the two kept; `a` and `b` are ranges of one passage. */
export function overlap(a, b) {
  const size = (ranges) => ranges.reduce((sum, [start, end]) => sum + end - start, 0);
  let both = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    both += Math.max(0, Math.min(a[i][1], b[j][1]) - Math.max(a[i][0], b[j][0]));
    if (a[i][1] < b[j][1]) i += 1;
    else j += 1;
  }
  return { both, onlyFirst: size(a) - both, onlySecond: size(b) - both };
}
