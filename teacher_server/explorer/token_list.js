// A text token by token, coloured by VDS: hover, click, or focus it once and walk with the arrow keys.

import { element } from "./element.js";
import { short } from "./numbers.js";
import { stepClass } from "./vds_scale.js";

// What would be unseen, or change the order of what is around it. Joiners (200C, 200D) are part of ordinary writing.
const UNSEEN = /(\r\n|[\n\r\t\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff])/u;
const SIGNS = { "\n": "\u21b5", "\r": "\u240d", "\r\n": "\u21b5", "\t": "\u21e5", " ": "\u00b7", "\u00a0": "\u237d" };

/** A token's text as nodes: spaces that stand alone, line ends and control characters have signs. */
function visible(text) {
  if (text === "") return [sign("\u25cc")];
  if (/^ +$/.test(text)) return [...text].map((space) => sign(SIGNS[space]));
  return text
    .split(UNSEEN)
    .filter((part) => part !== "")
    .flatMap((part) => (UNSEEN.test(part) ? signs(part) : [part]));
}

/** The same by itself, outside of its text: spaces at its ends have signs, too. */
export function alone(text) {
  const [, before, inner, after] = /^( *)(.*?)( *)$/su.exec(text);
  if (inner === "") return visible(text);
  const spaces = (run) => [...run].map((space) => sign(SIGNS[space]));
  return [...spaces(before), ...visible(inner), ...spaces(after)];
}

/** A token's text in the colour of its VDS. A space before and a line end after it are bare: they would be patches. */
function inked({ text, vds }) {
  const space = /^ (?=[^ ])/.test(text) ? " " : "";
  const nodes = visible(text.slice(space.length));
  const end = nodes.at(-1) === "\n" ? nodes.pop() : "";
  return [space, element("span", { class: `ink ${stepClass(vds)}` }, ...nodes), end];
}

/** The same as plain text, for labels. */
export function spoken(text) {
  if (text === "") return "part of a character";
  if (/^ +$/.test(text)) return text.length > 1 ? `${text.length} spaces` : "space";
  return text.replaceAll(/\r\n|\r|\n/g, " line end ").replaceAll("\t", " tab ").trim();
}

function code(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

function sign(shown) {
  return element("span", { class: "sign", "aria-hidden": "true" }, shown);
}

/** The sign of a character; a line end ends the line, too. */
function signs(character) {
  const shown = sign(SIGNS[character] ?? code(character));
  return character.endsWith("\n") ? [shown, "\n"] : [shown];
}

/**
 * The list. `tokens` are {text, vds}; `show(index, span)` is called for the token under the pointer or in focus, and
 * `leave(index)` when the pointer goes, with the token chosen last (-1: none).
 */
export function tokenList(tokens, { label, show, leave, chosen = -1 }) {
  const spans = tokens.map((token, index) => {
    const vds = Number.isFinite(token.vds) ? `VDS ${short(token.vds)}` : "not scored";
    return element(
      "span",
      {
        class: "token",
        role: "option",
        tabindex: index === Math.max(chosen, 0) ? 0 : -1,
        "aria-selected": String(index === chosen),
        "aria-label": `${spoken(token.text)}, ${vds}`,
        "data-index": index,
      },
      ...inked(token),
    );
  });
  const list = element(
    "div",
    { class: "tokens", role: "listbox", "aria-orientation": "horizontal", "aria-label": label, dir: "auto" },
    ...spans,
  );
  const choose = (index) => {
    if (spans[chosen]) spans[chosen].setAttribute("aria-selected", "false");
    spans[Math.max(chosen, 0)].tabIndex = -1;
    chosen = index;
    spans[index].tabIndex = 0;
    spans[index].setAttribute("aria-selected", "true");
    show(index, spans[index]);
  };
  const at = (event) => event.target.closest(".token");
  list.addEventListener("focusin", (event) => choose(Number(at(event).dataset.index)));
  list.addEventListener("mouseover", (event) => {
    const span = at(event);
    if (span) show(Number(span.dataset.index), span);
  });
  list.addEventListener("click", (event) => at(event)?.focus());
  list.addEventListener("mouseleave", () => leave?.(chosen));
  list.addEventListener("keydown", (event) => {
    const next = neighbour(spans, chosen, event.key);
    if (next === null) return;
    event.preventDefault();
    spans[next].focus();
  });
  return list;
}

/** Index that an arrow key leads to, or null. Up and down go to the nearest token of the next line. */
function neighbour(spans, from, key) {
  const last = spans.length - 1;
  if (key === "ArrowRight") return Math.min(from + 1, last);
  if (key === "ArrowLeft") return Math.max(from - 1, 0);
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const way = key === "ArrowDown" ? 1 : -1;
  const here = spans[from];
  let best = from;
  let line = null;
  for (let i = from + way; spans[i]; i += way) {
    const top = spans[i].offsetTop;
    if (Math.abs(top - here.offsetTop) < 4) continue;
    line ??= top;
    if (Math.abs(top - line) >= 4) break;
    const nearer = Math.abs(spans[i].offsetLeft - here.offsetLeft) < Math.abs(spans[best].offsetLeft - here.offsetLeft);
    if (best === from || nearer) best = i;
  }
  return best;
}
