// One token looked into: its figures, and what the teacher would have said in its place with and without the picture.

import { element, term } from "./element.js";
import { probability, short, signed } from "./numbers.js";
import { alone, spoken } from "./token_list.js";
import { stepClass } from "./vds_scale.js";

/** The panel of token `index` of `tokens`; `shown` is how many candidates each side has. */
export function inspector(tokens, index, shown) {
  const token = tokens[index];
  const gain = token.mm_logprob - token.text_logprob;
  const head = element(
    "h3",
    {},
    element("span", { class: `ink ${stepClass(token.vds)}` }, ...alone(token.text)),
    element("span", { class: "soft" }, ` token ${index + 1} of ${tokens.length}, id ${token.id}`),
  );
  const figures = element(
    "dl",
    { class: "pair" },
    ...term("VDS", `${short(token.vds)} nats`),
    ...term("With the picture", ...chance(token.mm_logprob)),
    ...term("Without it", ...chance(token.text_logprob)),
    ...term("The picture adds", `${signed(gain)} nats`),
  );
  const sides = element(
    "div",
    { class: "sides" },
    side("With the picture", "with", token, "mm_logprob", shown),
    side("Without it", "without", token, "text_logprob", shown),
  );
  return [head, figures, token.top?.length ? sides : element("p", { class: "soft" }, "No candidates came for it.")];
}

function chance(logprob) {
  return [probability(logprob), element("span", { class: "soft" }, ` ln p ${short(logprob)}`)];
}

/** A sentence of the same for who can't see it. */
export function sentence(token) {
  const best = (name) => spoken(ranked(token, name)[0]?.text ?? token.text);
  return (
    `${spoken(token.text)}: ${probability(token.mm_logprob)} with the picture, ${probability(token.text_logprob)} without. ` +
    `Likeliest with: ${best("mm_logprob")}; without: ${best("text_logprob")}.`
  );
}

function ranked(token, name) {
  return [...(token.top ?? [])].sort((a, b) => b[name] - a[name]);
}

/** The likeliest of one context. The answer's own token is there whatever its place. */
function side(title, kind, token, name, shown) {
  const all = ranked(token, name);
  const rows = all.slice(0, shown);
  if (!rows.some((row) => row.id === token.id)) rows.push(all.find((row) => row.id === token.id) ?? token);
  return element(
    "div",
    { class: kind },
    element("h4", {}, title),
    element("ol", {}, ...rows.map((row) => candidate(row, row.id === token.id, row[name]))),
  );
}

function candidate(row, own, logprob) {
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${100 * Math.exp(Math.min(logprob, 0))}%`;
  const text = element("span", { class: "text", dir: "auto" }, ...alone(row.text));
  const mark = own ? element("span", { class: "own", title: "the answer's own token" }, "\u25c2") : null;
  return element(
    "li",
    { class: own ? "chosen" : false },
    element("span", { class: "row" }, text, mark, element("span", { class: "percent" }, probability(logprob))),
    element("span", { class: "track" }, bar),
  );
}
