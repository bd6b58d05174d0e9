// The samples: ranked, filtered, searched, drawn a page at a time.

import { element, term } from "./element.js";
import { counted, share, short, signed } from "./numbers.js";
import { tokenList } from "./token_list.js";
import { hideTip, showTip } from "./tooltip.js";

const PAGE = 20;
const FOLDED = 400; // tokens of a longer response are drawn on request

/** How the page calls and writes each measure. */
export const MEASURES = {
  mean: ["Mean VDS", short],
  max: ["Highest VDS", short],
  p90: ["90th percentile", short],
  share: ["Share above Q0.7", share],
  gain: ["Sequence gain", signed],
};

/** The whole part: controls, then cards. */
export function sampleBrowser(samples, spans, scored) {
  const known = Object.keys(MEASURES).filter((name) => spans[name]);
  const controls = makeControls(known);
  const count = element("p", { class: "soft", role: "status" });
  const list = element("ol", { class: "samples" });
  const more = element("button", { type: "button" });
  let found = [];
  const draw = (from, to) => list.append(...found.slice(from, to).map((sample) => card(sample, controls.by.value, scored)));
  const page = () => {
    const drawn = list.children.length;
    const first = list.children.length ? drawn : 0;
    draw(first, first + PAGE);
    more.hidden = list.children.length >= found.length;
    more.textContent = `Show ${Math.min(PAGE, found.length - list.children.length)} more`;
  };
  const update = () => {
    hideTip();
    found = select(samples, controls);
    list.replaceChildren();
    page();
    const [least, most] = spans[controls.by.value];
    const write = MEASURES[controls.by.value][1];
    count.textContent = `${found.length.toLocaleString("en")} of ${counted(samples.length, "sample")} shown here. Over all ${scored.toLocaleString("en")} this measure goes from ${write(least)} to ${write(most)}.`;
    if (!found.length) list.append(element("li", { class: "soft" }, "None is like that: widen the filter or clear the search."));
  };
  controls.form.addEventListener("input", update);
  controls.form.addEventListener("submit", (event) => event.preventDefault());
  controls.form.addEventListener("reset", () => setTimeout(update));
  more.addEventListener("click", () => {
    const before = list.children.length;
    page();
    list.children[before]?.querySelector(".token")?.focus({ preventScroll: true });
  });
  update();
  return [controls.form, count, list, more];
}

function makeControls(known) {
  const field = (label, input) => element("label", {}, element("span", {}, label), input);
  const options = known.map((name) => element("option", { value: name }, MEASURES[name][0]));
  const by = element("select", { id: "by" }, ...options);
  const order = element("select", { id: "order" }, element("option", { value: "down" }, "highest first"), element("option", { value: "up" }, "lowest first"));
  const least = element("input", { id: "least", type: "number", step: "any", inputmode: "decimal", placeholder: "any" });
  const most = element("input", { id: "most", type: "number", step: "any", inputmode: "decimal", placeholder: "any" });
  const search = element("input", { id: "search", type: "search", placeholder: "text, id or row", autocomplete: "off", spellcheck: "false" });
  const form = element(
    "form",
    { class: "controls", role: "search", "aria-label": "Samples" },
    field("Ranked by", by), field("Order", order), field("At least", least), field("At most", most), field("Search", search),
    element("button", { type: "reset" }, "Clear"),
  );
  return { form, by, order, least, most, search };
}

function select(samples, { by, order, least, most, search }) {
  const value = (sample) => sample.values[by.value];
  const low = least.value === "" ? -Infinity : Number(least.value);
  const high = most.value === "" ? Infinity : Number(most.value);
  const wanted = search.value.trim().toLowerCase();
  const way = order.value === "down" ? -1 : 1;
  return samples
    .filter((sample) => value(sample) !== null && value(sample) >= low && value(sample) <= high)
    .filter((sample) => !wanted || haystack(sample).includes(wanted))
    .sort((a, b) => way * (value(a) - value(b)) || a.row - b.row);
}

function haystack(sample) {
  sample.haystack ??= [sample.id, sample.row, sample.question ?? "", sample.texts.join("")].join("\n").toLowerCase();
  return sample.haystack;
}

function card(sample, measure, scored) {
  const [, write] = MEASURES[measure];
  const named = sample.id === String(sample.row) ? `row ${sample.row}` : `row ${sample.row} (${sample.id})`;
  const others = Object.entries(MEASURES).filter(([name]) => name !== measure && sample.values[name] !== null);
  const figures = others.map(([name, [title, form]]) => element("div", {}, ...term(title, form(sample.values[name]))));
  return element(
    "li",
    { class: sample.images?.length ? "seen" : false },
    pictures(sample),
    element(
      "div",
      { class: "told" },
      element("h3", {}, element("span", { class: "value" }, write(sample.values[measure])),
        element("span", { class: "soft" }, ` rank ${sample.ranks[measure].toLocaleString("en")} of ${scored.toLocaleString("en")}, ${named}`)),
      sample.question ? element("p", { class: "question", dir: "auto" }, sample.question) : null,
      response(sample),
      element("dl", { class: "measures" }, ...figures, element("div", {}, ...term("Tokens", sample.tokens.toLocaleString("en")))),
    ),
  );
}

function pictures(sample) {
  const images = (sample.images ?? []).map((url) => {
    const image = element("img", { src: url, alt: "Picture of the sample", loading: "lazy" });
    image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
    return image;
  });
  const notes = [
    sample.more_images ? `and ${sample.more_images} more` : "",
    sample.picture_error ? `No thumbnail: ${sample.picture_error}` : "",
  ].filter(Boolean);
  if (!images.length && !notes.length) return null;
  return element("div", { class: "pictures" }, ...images, ...notes.map((note) => element("p", { class: "soft" }, note)));
}

function response(sample) {
  const holder = element("div", { class: "response" });
  const draw = (count) => {
    const tokens = sample.texts.slice(0, count).map((text, i) => ({ text, vds: sample.vds[i] }));
    const known = (i) => ({ id: sample.ids[i], vds: sample.vds[i], mm: sample.mm[i], text: sample.text[i] });
    const label = `Response of row ${sample.row}, token by token`;
    holder.replaceChildren(tokenList(tokens, { label, leave: hideTip, show: (i, span) => showTip(known(i), span) }));
    const kept = sample.texts.length;
    if (count < kept) {
      const all = element("button", { type: "button", class: "link" }, `Show all ${kept.toLocaleString("en")} tokens`);
      all.addEventListener("click", () => draw(kept));
      holder.append(all);
    } else if (kept < sample.tokens) {
      holder.append(element("p", { class: "soft" }, `The first ${kept.toLocaleString("en")} of ${sample.tokens.toLocaleString("en")} tokens; the report has no more of it.`));
    }
  };
  draw(sample.texts.length > FOLDED * 1.25 ? FOLDED : sample.texts.length);
  return holder;
}
