// The page, drawn from the data in it. Nothing is loaded.

import { decileTable, histogram } from "./chart.js";
import { element, term } from "./element.js";
import { counted, share, short } from "./numbers.js";
import { sampleBrowser } from "./samples.js";
import { errors, vocabulary } from "./tables.js";
import { legend } from "./vds_scale.js";

const TERMS = [
  ["VDS", "Visual dependency score of a token: how far the teacher\u2019s prediction of it moves when the picture is taken away, as a Kullback\u2013Leibler divergence over the whole vocabulary. Near 0 the token follows from the text alone; where it is high, it has to be read off the picture."],
  ["Sequence gain", "What the picture adds to the log-probability of the whole response: 3 nats mean that the picture makes it e\u00b3, about 20 times, as likely. Below 0 the picture speaks against the response: a wrong answer, or a wrong picture."],
  ["Share above Q0.7", "Share of a response\u2019s tokens whose VDS is above the 0.7 quantile of all tokens of the data set. Over the whole data set it is 0.3; a response above that has more visual tokens than most."],
  ["Nats", "The unit of natural logarithms; 1 nat is 1.44 bits."],
];

const facts = JSON.parse(document.getElementById("data").textContent);
const scored = facts.counts.rows - facts.counts.failed;

function section(title, ...body) {
  return element("section", {}, element("h2", {}, title), ...body);
}

function lede() {
  const { rows, failed, tokens } = facts.counts;
  const top = facts.deciles[9];
  const failures = failed ? `; ${counted(failed, "row")} could not be scored` : "";
  const spread = top?.share ? ` The most visual tenth of the tokens holds ${share(top.share)} of all VDS, and half of them have less than ${facts.deciles[4].high > 0.001 ? short(facts.deciles[4].high) : "0.001"} nats.` : "";
  return element("p", { class: "lede" }, `The teacher scored ${counted(tokens, "token")} of ${counted(rows - failed, "response")}, each with the picture and without it${failures}.${spread}`);
}

function cards() {
  const card = (name, value, unit) => element("div", {}, ...term(name, value, element("span", { class: "unit" }, unit ? ` ${unit}` : "")));
  const top = facts.deciles[9];
  return element(
    "dl",
    { class: "figures" },
    card("Responses scored", scored.toLocaleString("en")),
    card("Tokens", facts.counts.tokens.toLocaleString("en")),
    card("Mean VDS", short(facts.mean), "nats"),
    facts.q70 === null ? "" : card("Q0.7 of VDS", short(facts.q70), "nats"),
    card("Top tenth of tokens holds", top?.share ? share(top.share) : "\u2013", "of VDS"),
  );
}

function page() {
  const notices = [
    facts.finished ? "" : "The scoring had not ended: this is of the rows that are there, and no row has its share above Q0.7 yet.",
    facts.notice ? `Pictures and questions are left out: ${facts.notice}` : "",
  ].filter(Boolean);
  const parts = [lede(), ...notices.map((text) => element("p", { class: "notice" }, text)), cards()];
  if (facts.counts.tokens) {
    const which = facts.samples.length < scored ? `The highest and lowest by each measure are here, and others evenly between: ${counted(facts.samples.length, "sample")} of ${scored.toLocaleString("en")}. Ranks are among all.` : "All of them are here.";
    parts.push(
      section("How VDS is spread over the tokens", histogram(facts.bars)),
      section("Tenths of the tokens", decileTable(facts.deciles)),
      section("Samples by dependency", element("p", { class: "soft" }, which), legend(), ...sampleBrowser(facts.samples, facts.spans, scored)),
      section("Most and least visual tokens", ...vocabulary(facts.vocabulary)),
    );
  } else {
    parts.push(element("p", { class: "notice" }, "No row was scored, so there is nothing to draw. What went wrong stands below."));
  }
  if (facts.errors.length) parts.push(section("Rows that could not be scored", ...errors(facts.errors)));
  parts.push(
    section("How to read this", element("dl", { class: "settings terms" }, ...TERMS.flatMap(([name, is]) => term(name, is)))),
    section("Where it comes from", element("dl", { class: "settings" }, ...facts.settings.flatMap(([name, is]) => term(name, is)))),
  );
  document.getElementById("page").append(...parts);
}

page();
