// Tables of the vocabulary and of what failed.

import { element } from "./element.js";
import { counted, short, signed } from "./numbers.js";
import { alone } from "./token_list.js";
import { stepClass } from "./vds_scale.js";

/** The most and the least visual tokens, side by side. */
export function vocabulary({ most, least, distinct, min_count }) {
  if (!most.length) {
    return [element("p", { class: "soft" }, `None of the ${counted(distinct, "token")} occurs ${min_count} times. Make the report with a smaller --min-count.`)];
  }
  const note = `Mean over all their places in the data. Of ${counted(distinct, "different token")}, those that occur ${min_count} times or more.`;
  const both = element("div", { class: "both" }, tokens("Most visual", most), least.length ? tokens("Least visual", least) : null);
  return [element("p", { class: "soft" }, note), both];
}

function tokens(title, rows) {
  const made = rows.map((row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("span", { class: `ink ${stepClass(row.mean)}`, title: `id ${row.id}` }, ...alone(row.text))),
      element("td", {}, short(row.mean)),
      element("td", {}, short(row.max)),
      element("td", {}, signed(row.gain)),
      element("td", {}, row.count.toLocaleString("en")),
    ),
  );
  const heads = ["Token", "Mean VDS", "Highest", "Mean gain", "Times"].map((text) => element("th", { scope: "col" }, text));
  return element(
    "div",
    {},
    element("h3", {}, title),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title} tokens` },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...made))),
  );
}

/** Rows without scores, by code. */
export function errors(found) {
  return found.map(({ code, count, first }) =>
    element(
      "details",
      { open: found.length === 1 },
      element("summary", {}, element("b", {}, code), ` ${counted(count, "row")}`),
      element("ul", {}, ...first.map((row) => element("li", {},
        element("span", { class: "soft" }, row.id === String(row.row) ? `Row ${row.row}: ` : `Row ${row.row} (${row.id}): `), row.error))),
      count > first.length ? element("p", { class: "soft" }, `and ${counted(count - first.length, "more row")}`) : null,
    ),
  );
}
