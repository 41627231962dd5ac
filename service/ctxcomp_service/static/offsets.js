/** The server counts characters as Python does, by code points; a JavaScript string counts UTF-16 units. */

/** A function from code-point offsets in `text` to UTF-16 offsets. */
export function utf16Offsets(text) {
  const wide = []; // the code-point offsets of the characters that take two units
  for (const match of text.matchAll(/[\uD800-\uDBFF][\uDC00-\uDFFF]/g)) wide.push(match.index - wide.length);
  return (offset) => offset + countBelow(wide, offset);
}

function countBelow(sorted, limit) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
