/** The slider's steps: round numbers, about evenly spaced on a logarithmic scale. */

export const KEEPS = [...steps(10, 30, 1), ...steps(30, 100, 5), ...steps(100, 300, 10), ...steps(300, 1001, 50)];

function steps(from, to, by) {
  const found = [];
  for (let i = from; i < to; i += by) found.push(i / 1000);
  return found;
}

/** The budget in tokens, as the server computes it. */
export function budgetOf(keep, tokensIn) {
  return Math.floor(keep * tokensIn + 1e-9);
}

/**
 * What the server will probably keep: the best units by score until their share of the characters is `keep`.
 * @returns {boolean[] | null} null where the scores say nothing
 */
export function estimate(units, keep) {
  if (units.length === 0 || units.every((unit) => unit.score === units[0].score)) return null;
  const kept = new Array(units.length).fill(false);
  let room = keep * units.reduce((sum, unit) => sum + unit.end - unit.start, 0);
  for (const i of byScore(units)) {
    room -= units[i].end - units[i].start;
    if (room < 0) break;
    kept[i] = true;
  }
  return kept;
}

/** The rank of each unit, 1 for the best; equal scores share a rank. */
export function ranks(units) {
  const found = new Array(units.length);
  let before = null;
  byScore(units).forEach((i, place) => {
    found[i] = before !== null && units[before].score === units[i].score ? found[before] : place + 1;
    before = i;
  });
  return found;
}

function byScore(units) {
  return units.map((_, i) => i).sort((a, b) => units[b].score - units[a].score || a - b);
}
