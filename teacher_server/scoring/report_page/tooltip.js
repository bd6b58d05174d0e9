// One tooltip for all tokens.

import { element, term } from "./element.js";
import { probability, short, signed } from "./numbers.js";

const MARGIN = 8;
let beside = null; // the element that the tooltip is of

/** Show what is known of a token beside its element. */
export function showTip({ id, vds, mm, text }, span) {
  const tip = document.getElementById("tooltip");
  tip.replaceChildren(
    element(
      "dl",
      {},
      ...term("VDS", `${short(vds)} nats`),
      ...term("With the picture", probability(mm)),
      ...term("Without it", probability(text)),
      ...term("The picture adds", `${signed(mm - text)} nats`),
      ...term("Token id", String(id)),
    ),
  );
  tip.hidden = false;
  beside = span;
  put();
}

export function hideTip() {
  document.getElementById("tooltip").hidden = true;
  beside = null;
}

/** Below the element, or above where there is no room; hidden where the element is out of sight. */
function put() {
  if (!beside) return;
  const tip = document.getElementById("tooltip");
  const at = beside.getClientRects()[0];
  if (!at || at.bottom < 0 || at.top > window.innerHeight) return hideTip();
  const room = document.documentElement.clientWidth - tip.offsetWidth - MARGIN;
  const below = at.bottom + MARGIN + tip.offsetHeight <= window.innerHeight;
  tip.style.left = `${Math.max(MARGIN, Math.min(at.left, room))}px`;
  tip.style.top = `${below ? at.bottom + MARGIN : at.top - MARGIN - tip.offsetHeight}px`;
}

document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", put, { passive: true, capture: true });
window.addEventListener("resize", put);
document.addEventListener("focusout", hideTip);
