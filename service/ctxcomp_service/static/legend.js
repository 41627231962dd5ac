/** What the marks mean, and how far two methods agree. */

import { overlap } from "./difference.js";
import { element } from "./dom.js";
import { percent } from "./format.js";

export function drawLegend(place, results, names) {
  const keys = [sample("kept", "kept"), sample("dropped", "dropped")];
  if (results.length < 2) {
    place.replaceChildren(...keys);
    return;
  }
  const only = element("span", { className: "kept" }, sample("only", "kept by this one only"));
  place.replaceChildren(...keys, only, ...(results.every(Boolean) ? [agreement(results, names)] : []));
}

function sample(className, text) {
  return element("span", { className, textContent: text });
}

/** Of the text that either kept, by characters. */
function agreement([first, second], names) {
  const total = { both: 0, onlyFirst: 0, onlySecond: 0 };
  const others = second.ranges();
  first.ranges().forEach((ranges, p) => {
    const found = overlap(ranges, others[p]);
    for (const part of Object.keys(total)) total[part] += found[part];
  });
  const all = total.both + total.onlyFirst + total.onlySecond;
  if (!all) return sample("agreement", "Neither kept anything.");
  const [both, one, two] = [total.both, total.onlyFirst, total.onlySecond].map((n) => percent(n / all));
  return sample("agreement", `Of what either kept: ${both} both, ${one} only ${names[0]}, ${two} only ${names[1]}.`);
}
