/** The page: what the user sets, what is asked of the server, what is shown. */

import { ApiError, fetchMethods } from "./api.js";
import { Code } from "./code.js";
import { at, debounced } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { count, percent } from "./format.js";
import { Input } from "./input.js";
import { budgetOf, KEEPS } from "./keep.js";
import { askForKey, attachKeyPanel, storedKey } from "./key.js";
import { drawLegend } from "./legend.js";
import { attachMoves } from "./moves.js";
import { Side } from "./side.js";
import { attachTip } from "./tip.js";
import { View } from "./view.js";

const WAIT_MS = { slider: 120, typing: 400, choice: 0 };

const slider = at("keep");
const sides = [new Side(draw, retry), new Side(draw, retry)];
const view = new View(at("passages"), at("more"));
const hideTip = attachTip(at("passages"), (unit) => view.describe(unit));
attachMoves(at("passages"));
const code = new Code(() => ({ ...request(), method: sides[0].method }));
const later = debounced(askNow);
const input = new Input((how) => ask(how));
let methods = [];
let asked = 0;

function keep() {
  return KEEPS[slider.value];
}

function request() {
  return { query: input.query, passages: input.passages, budget: { keep: keep() } };
}

/** The sides in use: one, or two that are compared. */
function active() {
  return at("compare").checked ? sides : sides.slice(0, 1);
}

/** Ask soon; what is shown is out of date from now on. */
function ask(how) {
  at("result").classList.add("stale");
  later(WAIT_MS[how]);
}

async function askNow() {
  const turn = (asked += 1);
  code.draw();
  sides.forEach((side) => side.stop());
  if (input.passages.length === 0) {
    sides.forEach((side) => side.forget());
    draw();
    return;
  }
  if (methods.length === 0 && !(await learnMethods())) return;
  const body = request();
  // One after the other: the server works on one at a time anyway, and two at once may be one too many for it.
  for (const side of active()) {
    if (turn !== asked) return;
    await side.ask(body, storedKey());
    if (turn === asked && side.lastError?.stopsAll) {
      restore();
      break;
    }
  }
}

/** No answer will come for now: what the others show must not stay a guess. */
function restore() {
  for (const side of active()) side.result?.restore();
  draw();
}

/** Ask which methods there are; whether it worked. */
async function learnMethods() {
  try {
    const found = await fetchMethods(storedKey());
    methods = found.methods;
    sides[0].offer(methods, found.usual);
    sides[1].offer(methods, methods.find(({ name }) => name === "bm25" && name !== found.usual)?.name);
    code.draw();
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    sides[0].fail(error);
    draw();
    return false;
  }
}

function retry(kind) {
  if (kind === "key") askForKey();
  else ask("choice");
}

function draw() {
  const shown = active();
  const price = Math.max(0, at("price").valueAsNumber || 0);
  for (const side of shown) side.draw(price, methods.find(({ name }) => name === side.method)?.summary);
  const passages = shown.map((side) => side.result?.passages).find(Boolean) ?? input.passages;
  const results = shown.map((side) => (side.result?.passages === passages ? side.result : null));
  hideTip();
  view.show(passages, results, shown.map((side) => side.method));
  drawLegend(at("legend"), results, shown.map((side) => side.method));
  drawBudget();
  const waiting = shown.some((side) => side.waiting);
  at("result").classList.toggle("stale", waiting || shown.some((side) => side.lastError));
  at("passages").setAttribute("aria-busy", String(waiting));
  if (!waiting && results.every(Boolean)) at("live").textContent = shown.map(spoken).join(" ");
}

function spoken({ method, result: { stats } }) {
  const share = percent(stats.tokens_in ? stats.tokens_out / stats.tokens_in : 1);
  return `${method}: kept ${count(stats.tokens_out)} of ${count(stats.tokens_in)} tokens, ${share}.`;
}

function drawBudget() {
  const stats = sides[0].result?.stats;
  const tokens = stats && `at most ${count(budgetOf(keep(), stats.tokens_in))} of ${count(stats.tokens_in)} tokens`;
  at("keep-value").textContent = stats ? `${keep()} · ${tokens}` : `${keep()}`;
  slider.setAttribute("aria-valuetext", at("keep-value").textContent);
}

/** At once what the scores promise, then the server's word. */
function slide() {
  for (const side of active()) side.result?.guess(keep());
  hideTip();
  view.paint();
  drawBudget();
  ask("slider");
}

slider.max = String(KEEPS.length - 1);
slider.value = String(KEEPS.indexOf(0.15));
slider.addEventListener("input", slide);
at("sides").append(sides[0].element);
for (const side of sides) side.select.addEventListener("change", () => ask("choice"));
at("price").addEventListener("input", draw);
at("kept-only").addEventListener("change", (event) => at("result").classList.toggle("kept-only", event.target.checked));
at("compare").addEventListener("change", (event) => {
  at("result").classList.toggle("comparing", event.target.checked);
  if (event.target.checked) at("sides").append(sides[1].element);
  else sides[1].element.remove();
  sides[1].stop();
  draw();
  ask("choice");
});
attachKeyPanel(() => {
  methods = [];
  ask("choice");
});
input.load(EXAMPLES[0]);
