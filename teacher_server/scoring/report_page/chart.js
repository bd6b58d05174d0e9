// How VDS is spread: two rows of bars over one logarithmic axis, and the table of deciles.

import { element } from "./element.js";
import { share, short, signed } from "./numbers.js";
import { stepClass } from "./vds_scale.js";

const CLOSE = 1e-6; // nats, end of the first bar

/** `bars` are {low, high, tokens, vds}; high is null for the last, open one. */
export function histogram(bars) {
  const tokens = bars.reduce((sum, bar) => sum + bar.tokens, 0);
  const vds = bars.reduce((sum, bar) => sum + bar.vds, 0);
  return element(
    "figure",
    { class: "spread" },
    row("Tokens", bars, (bar) => bar.tokens / tokens),
    row("Their part of all VDS", bars, (bar) => (vds > 0 ? bar.vds / vds : 0)),
    axis(bars),
    element("figcaption", { class: "soft" }, "VDS in nats, each step ten times the last; the first bar is all that is close to 0. ",
      "Bars have the colours of the tokens below."),
  );
}

function row(title, bars, part) {
  const parts = bars.map(part);
  const most = Math.max(...parts);
  const drawn = bars.map((bar, i) => {
    const range = bar.low === 0 ? `below ${short(bar.high)}` : `${short(bar.low)} to ${bar.high ? short(bar.high) : "more"}`;
    const made = element("span", { class: stepClass(middle(bar)), title: `${range} nats: ${share(parts[i])}` });
    made.style.height = most > 0 ? `${(100 * parts[i]) / most}%` : "0";
    made.classList.toggle("some", parts[i] > 0);
    return element("span", { class: "slot" }, made);
  });
  const top = parts.indexOf(most);
  const label = `${title} by VDS: the highest bar, ${share(most)}, is from ${short(bars[top].low)} nats`;
  return element(
    "div",
    { class: "spread-row" },
    element("p", {}, element("b", {}, title), element("span", { class: "soft" }, ` highest bar ${share(most)}`)),
    element("div", { class: "bars", role: "img", "aria-label": label }, ...drawn),
  );
}

function middle(bar) {
  return bar.low === 0 ? 0 : Math.sqrt(bar.low * (bar.high ?? bar.low));
}

function axis(bars) {
  const ticks = bars.flatMap((bar, i) => {
    const power = Math.log10(bar.low);
    if (bar.low === 0 || Math.abs(power - Math.round(power)) > 1e-6) return [];
    const tick = element("span", { class: Math.round(power) % 2 ? "odd" : false }, label(Math.round(power)));
    tick.style.left = `${(100 * i) / bars.length}%`;
    return [tick];
  });
  return element("div", { class: "axis", "aria-hidden": "true" }, ...ticks);
}

function label(power) {
  return power < -3 ? `1e\u2212${-power}` : String(10 ** power);
}

function range({ low, high }) {
  if (high < CLOSE) return short(high);
  return `${low < CLOSE ? "0" : short(low)} to ${short(high)}`;
}

/** A tenth of the tokens in each row. */
export function decileTable(deciles) {
  const rows = deciles.map((decile, i) => {
    const bar = element("span", { class: "inline-bar", "aria-hidden": "true" });
    bar.style.width = `${4 * (decile.share ?? 0)}rem`;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("span", { class: `chip ${stepClass(decile.mean)}` }), String(i + 1)),
      element("td", {}, range(decile)),
      element("td", {}, short(decile.mean)),
      element("td", { class: "barred" }, bar, decile.share === null ? "\u2013" : share(decile.share)),
      element("td", {}, signed(decile.gain)),
    );
  });
  const heads = ["Decile", "VDS, nats", "Mean", "Of all VDS", "Mean gain, nats"];
  const head = heads.map((text) => element("th", { scope: "col" }, text));
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Deciles of VDS" },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
  );
}
