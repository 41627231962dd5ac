/** The tooltip of a unit: on hover, on focus, on tap; Escape closes it. It may be hovered itself. */

import { at } from "./dom.js";

const GAP = 6;

/**
 * Attach the tooltip to the units inside a container.
 * @param {(unit: Element) => string} describe what to say of one
 */
export function attachTip(container, describe) {
  const tip = at("tip");
  let shown = null;

  function show(unit) {
    if (unit === shown) return;
    hide();
    shown = unit;
    tip.textContent = describe(unit);
    tip.hidden = false;
    unit.setAttribute("aria-describedby", tip.id);
    place(tip, unit);
  }
  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  container.addEventListener("pointerover", (event) => {
    const unit = event.target.closest(".unit");
    if (unit && event.pointerType !== "touch") show(unit);
  });
  container.addEventListener("pointerleave", (event) => {
    if (event.relatedTarget !== tip) hide();
  });
  tip.addEventListener("pointerleave", hide);
  container.addEventListener("focusin", (event) => event.target.matches(".unit") && show(event.target));
  container.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", hide, { passive: true });
  return hide;
}

/** Above the first line of the unit, or below its last one where there is no room; inside the window. */
function place(tip, unit) {
  const lines = unit.getClientRects();
  const first = lines[0] ?? unit.getBoundingClientRect();
  const last = lines[lines.length - 1] ?? first;
  const above = first.top - tip.offsetHeight - GAP;
  const top = above > 0 ? above : last.bottom + GAP;
  const left = Math.min(Math.max(first.left, GAP), document.documentElement.clientWidth - tip.offsetWidth - GAP);
  tip.style.top = `${Math.round(Math.min(top, innerHeight - tip.offsetHeight - GAP))}px`;
  tip.style.left = `${Math.round(left)}px`;
}
