// The one colour scale of VDS: linear near 0, logarithmic above KNEE, full at CAP. The steps' colours stand in tokens.css.

import { element } from "./element.js";

/** Nats. What is above is shown as CAP: there the picture makes a token e^5, about 150 times, as likely on average. */
export const CAP = 5;
/** Nats. Below it, differences mean little and are hardly shown. */
export const KNEE = 0.05;
export const STEPS = 10;
const TICKS = [0, 0.1, 0.3, 1, 2, CAP];

/** Where a VDS in nats stands on the scale, in [0, 1]. */
export function place(vds) {
  const bounded = Math.min(Math.max(vds, 0), CAP);
  return Math.log1p(bounded / KNEE) / Math.log1p(CAP / KNEE);
}

/** Class of a VDS: step-0 to step-10, or "unscored" where there is none. */
export function stepClass(vds) {
  return Number.isFinite(vds) ? `step-${Math.round(STEPS * place(vds))}` : "unscored";
}

/** The scale with its ticks in nats. */
export function legend() {
  const cells = Array.from({ length: STEPS + 1 }, (_, step) => element("span", { class: `step-${step}` }));
  const ticks = TICKS.map((vds) => {
    const tick = element("span", {}, vds === CAP ? `${CAP}+` : String(vds));
    // Step s fills cell s; its middle stands for place s / STEPS.
    tick.style.left = `${(100 * (STEPS * place(vds) + 0.5)) / (STEPS + 1)}%`;
    return tick;
  });
  ticks[0].style.left = "0";
  ticks[ticks.length - 1].style.left = "100%";
  return element(
    "div",
    { class: "legend", role: "img", "aria-label": `Colours of VDS from 0 to ${CAP} nats or more` },
    element("div", { class: "cells" }, ...cells),
    element("div", { class: "ticks" }, ...ticks),
    element("div", {}, "VDS, nats. Underlined from 0.2, bold from 1.5."),
  );
}
