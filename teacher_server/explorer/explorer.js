// The page at "/": a form, what the teacher says of it, and a link that brings the form back.

import { ask, Refusal, token } from "./api.js";
import { inspector, sentence } from "./candidates.js";
import { element, term } from "./element.js";
import { gainBar } from "./gain_bar.js";
import { fromHash, toHash } from "./link.js";
import { counted, duration, short, signed } from "./numbers.js";
import { Picture } from "./picture.js";
import { tokenList } from "./token_list.js";
import { legend } from "./vds_scale.js";

const CANDIDATES = 5;
const by = (id) => document.getElementById(id);
const picture = new Picture({
  changed: () => (example = ""),
  refused: (words) => refuse(new Refusal(422, { detail: words, field: "image" })),
});
let examples = [];
let example = ""; // name of the shipped example whose picture is shown
let under_way = null; // AbortController of the request
let scored = null; // { request, answer } of what is shown

// --- the form ------------------------------------------------------------------------------------------------------

function state() {
  const text_context = by("form").elements.text_context.value;
  const words = { system: by("system").value, question: by("question").value, answer: by("answer").value };
  return { ...words, text_context, example, image: picture.url, had_image: Boolean(picture.url) };
}

function fill(given) {
  for (const name of ["system", "question", "answer"]) by(name).value = given[name] ?? "";
  by("more").open = Boolean(given.system);
  by("form").elements.text_context.value = given.text_context ?? "drop";
  picture.show(given.image ?? "");
  example = given.example ?? "";
}

/** What keeps the form from being sent, as a problem; null where nothing does. */
function missing({ image, question, answer }) {
  if (!image) return { detail: "There is no picture. Choose, drop or paste one.", field: "image" };
  if (!question.trim()) return { detail: "There is no question. Write one.", field: "messages" };
  if (!answer) return { detail: "There is no answer to score. Write the one you want looked into.", field: "response" };
  return null;
}

function request({ system, question, answer, text_context, image }) {
  const content = [{ type: "image_url", image_url: { url: image } }, { type: "text", text: question }];
  const first = system ? [{ role: "system", content: system }] : [];
  return { messages: [...first, { role: "user", content }], response: answer, mode: "topk", k: CANDIDATES, text_context };
}

async function score() {
  if (under_way) return;
  const asked = state();
  if (!by("token-part").hidden) token.set(by("token").value.trim());
  const lacks = missing(asked);
  if (lacks) return refuse(new Refusal(422, lacks), true);
  clearProblem();
  under_way = new AbortController();
  const clock = busy(true);
  try {
    const answer = await ask("/v1/score", request(asked), under_way.signal);
    scored = { request: asked, answer };
    history.replaceState(null, "", toHash(asked).hash);
    by("token-part").hidden = true;
    show(answer);
  } catch (error) {
    by("status").textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") refuse(error, true);
  } finally {
    under_way = null;
    clearInterval(clock);
    busy(false);
  }
}

function busy(is) {
  by("score").disabled = is;
  by("stop").hidden = !is;
  by("result").setAttribute("aria-busy", String(is));
  if (!is) return null;
  const began = performance.now();
  by("status").textContent = "Scoring …";
  return setInterval(() => {
    by("status").textContent = `Scoring, ${Math.round((performance.now() - began) / 1000)} s …`;
  }, 2000);
}

// --- problems ------------------------------------------------------------------------------------------------------

const PARTS = { picture: "file", question: "question", answer: "answer" };

function refuse(error, focus = false) {
  const refusal = error instanceof Refusal ? error : new Refusal(-1, { detail: `The page itself failed: ${error.message}` });
  if (refusal.status === 401) return wantToken(refusal);
  clearProblem();
  const facts = refusal.facts.flatMap(([name, said]) => term(name, String(said)));
  by("problem").replaceChildren(
    element("h2", {}, refusal.title),
    element("p", {}, refusal.message),
    element("dl", { class: "settings" }, ...facts),
  );
  by("problem").hidden = false;
  const part = by(PARTS[refusal.part] ?? "score");
  if (refusal.part) {
    part.setAttribute("aria-invalid", "true");
    part.setAttribute("aria-errormessage", "problem");
  }
  if (focus) part.focus();
}

function wantToken(refusal) {
  clearProblem();
  const known = Boolean(token.get());
  by("token-part").hidden = false;
  by("problem").replaceChildren(
    element("h2", {}, refusal.title),
    element("p", {}, known ? `It refused the one it got: ${refusal.message}` : "Enter it above, then press Score."),
  );
  by("problem").hidden = false;
  by("token").focus();
}

function clearProblem() {
  by("problem").hidden = true;
  for (const id of Object.values(PARTS)) {
    by(id).removeAttribute("aria-invalid");
    by(id).removeAttribute("aria-errormessage");
  }
}

// --- the answer ----------------------------------------------------------------------------------------------------

function show(answer) {
  const { tokens, summary } = answer;
  by("empty").hidden = true;
  by("result").hidden = false;
  const figure = (name, value, unit = "nats") => element("div", {}, ...term(name, value, element("span", { class: "unit" }, ` ${unit}`)));
  by("figures").replaceChildren(
    figure("Mean VDS", short(summary.vds_mean)),
    figure("90th percentile", short(summary.vds_p90)),
    figure("Highest VDS", short(summary.vds_max)),
    figure("Sequence gain", signed(summary.sequence_gain)),
    figure("Answer", String(summary.tokens), summary.tokens === 1 ? "token" : "tokens"),
  );
  const most = tokens.reduce((best, token, index) => (token.vds > tokens[best].vds ? index : best), 0);
  const look = (index) => by("inspector").replaceChildren(...inspector(tokens, index, CANDIDATES));
  const list = tokenList(tokens, {
    label: "Tokens of the answer",
    chosen: most,
    leave: look,
    show: (index, span) => {
      look(index);
      if (document.activeElement === span) by("spoken").textContent = sentence(tokens[index]);
    },
  });
  by("tokens").replaceChildren(list);
  by("legend").replaceChildren(legend());
  by("gain").replaceChildren(...gainBar(tokens, look));
  look(most);
  const lengths = `prompt ${answer.mm_length} tokens with the picture, ${answer.text_length} without`;
  const times = `queue ${duration(answer.queue_s)}, engine ${duration(answer.engine_s)}`;
  by("status").textContent = `Scored ${counted(tokens.length, "token")}: ${lengths}; ${times}.`;
  by("copied").textContent = "";
}

// --- copies and links ----------------------------------------------------------------------------------------------

/** The picture itself is left out: its size stands for it. */
function copyJson() {
  const { image, ...rest } = scored.request;
  const bytes = Math.floor(((image.length - image.indexOf(",") - 1) * 3) / 4);
  copy(JSON.stringify({ request: { ...rest, image_bytes: bytes }, scores: scored.answer }, null, 2), "Copied the scores.");
}

function copyLink() {
  const { hash, left_out } = toHash(scored.request);
  history.replaceState(null, "", hash);
  const but = left_out ? " The picture is too large for a link and is left out: send it along." : "";
  copy(location.href, `Copied the link.${but}`);
}

async function copy(text, done) {
  let works = true;
  try {
    await navigator.clipboard.writeText(text); // there only over HTTPS and on loopback
  } catch {
    const field = element("textarea", { class: "hidden", readonly: true });
    document.body.append(field);
    field.value = text;
    field.select();
    works = document.execCommand("copy");
    field.remove();
  }
  by("copied").textContent = works ? done : "The browser does not let the page copy.";
}

function restore() {
  let given;
  try {
    given = fromHash(location.hash);
  } catch (error) {
    return refuse(new Refusal(422, { detail: error.message }));
  }
  if (!given) return;
  const shipped = examples.find((one) => one.name === given.example);
  fill({ ...given, image: given.image || shipped?.image, example: shipped ? given.example : "" });
  const lost = given.had_image && !picture.url;
  by("status").textContent = `Brought back from the link. ${lost ? "It came without its picture: add that, then press Score." : "Press Score."}`;
}

// --- the start -----------------------------------------------------------------------------------------------------

/** Who the teacher is; the page works without knowing. */
async function meet() {
  try {
    const info = await ask("/v1/teacher");
    by("teacher").textContent = `${info.model_id}, ${info.engine} engine, ${info.dtype}`;
    picture.limit = info.limits?.max_image_bytes ?? Infinity;
    by("grey").disabled = info.capabilities?.includes("grey_context") === false;
  } catch (error) {
    if (error.status === 401) return wantToken(error);
    by("teacher").textContent = `The teacher did not say who it is. ${error.message}`;
  }
}

async function offer() {
  examples = await ask("/v1/examples").then((said) => said.examples, () => []);
  by("examples").replaceChildren(...examples.map(card));
  by("examples-part").hidden = examples.length === 0;
}

/** Try a token as soon as it was written. */
async function knock() {
  token.set(by("token").value.trim());
  clearProblem();
  await meet();
}

function card(one) {
  const take = () => {
    fill({ ...one, example: one.name, text_context: state().text_context });
    by("status").textContent = "Example taken. Press Score.";
    clearProblem();
    by("score").focus();
  };
  const image = element("img", { src: one.image, alt: "" });
  const words = element("span", { class: "words" }, element("b", {}, one.name || one.question), element("span", { class: "soft" }, one.answer));
  return element("li", {}, element("button", { type: "button", click: take }, image, words));
}

by("keys").textContent = `${/Mac|iP(hone|ad)/.test(navigator.userAgent) ? "\u2318" : "Ctrl"} + Enter`;
by("form").addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
by("stop").addEventListener("click", () => under_way?.abort());
by("copy-json").addEventListener("click", copyJson);
by("copy-link").addEventListener("click", copyLink);
window.addEventListener("hashchange", restore);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  score();
});
by("token").addEventListener("change", knock);
await Promise.all([meet(), offer()]);
restore();
