/** The keyboard among units: one stop of Tab for all of them, arrows from one to the next. */

const STEPS = {
  ArrowRight: (units, i) => i + 1,
  ArrowLeft: (units, i) => i - 1,
  ArrowDown: (units, i) => otherCell(units, i, 1),
  ArrowUp: (units, i) => otherCell(units, i, -1),
  Home: () => 0,
  End: (units) => units.length - 1,
};

/** Let arrow keys move between the units in a container. */
export function attachMoves(container) {
  container.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !event.target.matches(".unit") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const units = [...container.querySelectorAll(".unit")].filter((unit) => unit.getClientRects().length);
    const next = units[step(units, units.indexOf(event.target))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  });
  container.addEventListener("focusin", ({ target }) => {
    if (!target.matches(".unit")) return;
    container.querySelectorAll('.unit[tabindex="0"]').forEach((unit) => (unit.tabIndex = -1));
    target.tabIndex = 0;
  });
}

/** The first unit of the next passage, or of the one before. */
function otherCell(units, i, step) {
  const cell = (unit) => unit.closest(".cell");
  let next = i;
  while (units[next] && cell(units[next]) === cell(units[i])) next += step;
  while (step < 0 && units[next - 1] && cell(units[next - 1]) === cell(units[next])) next -= 1;
  return next;
}
