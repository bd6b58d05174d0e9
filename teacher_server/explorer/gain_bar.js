// The sequence gain as a bar: what the picture adds to the log-probability of every token, end to end.

import { element } from "./element.js";
import { short, signed } from "./numbers.js";
import { spoken } from "./token_list.js";

/** `show(index)` is called for the token under the pointer. Nats to the right: likelier with the picture. */
export function gainBar(tokens, show) {
  const gains = tokens.map((token) => token.mm_logprob - token.text_logprob);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const up = sum(gains.filter((gain) => gain > 0));
  const down = -sum(gains.filter((gain) => gain < 0));
  const net = up - down;
  const whole = up + down;
  if (!(whole > 0)) return [element("p", { class: "soft" }, "The picture moves no token: the bar is empty.")];
  const segments = (sign) =>
    gains.flatMap((gain, index) => (Math.sign(gain) === sign ? [segment(tokens[index], gain, whole, () => show(index))] : []));
  const against = element("div", { class: "against" }, ...segments(-1));
  against.style.width = `${(100 * down) / whole}%`;
  const towards = element("div", { class: "towards" }, ...segments(1));
  towards.style.width = `${(100 * up) / whole}%`;
  const opposed = down > 0.001 * whole;
  const label = `Sequence gain ${signed(net)} nats: ${signed(up)} from tokens that the picture makes likelier, ${signed(-down)} from others`;
  const bar = element("div", { class: "bar", role: "img", "aria-label": label }, opposed ? against : null, towards);
  const ends = element(
    "div",
    { class: "ends soft" },
    element("span", {}, opposed ? `${signed(-down)} from tokens less likely with the picture` : ""),
    element("span", {}, up > 0.001 * whole ? `${signed(up)} from tokens likelier with the picture` : ""),
  );
  return [element("p", {}, verdict(net)), bar, ends];
}

function segment(token, gain, whole, show) {
  const made = element("span", { title: `${spoken(token.text)}: ${signed(gain)} nats`, mouseenter: show });
  made.style.flexGrow = String(Math.abs(gain));
  // A word is written only where there is room for some letters of it.
  made.classList.toggle("wide", Math.abs(gain) / whole > 0.01);
  if (Math.abs(gain) / whole > 0.06) made.textContent = token.text.trim();
  return made;
}

function raised(power) {
  return [...String(power)].map((digit) => "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[digit]).join("");
}

/** Net gain in words. */
function verdict(net) {
  const factor = Math.abs(net) < 14 ? short(Math.exp(Math.abs(net))) : `10${raised(Math.round(Math.abs(net) / Math.LN10))}`;
  if (Math.abs(net) < 0.01) return "The picture makes the whole answer neither likelier nor less likely.";
  const how = net > 0 ? "as likely as it is without it" : "less likely than it is without it";
  return `Sequence gain ${signed(net)} nats: with the picture the whole answer is ${factor} times ${how}.`;
}
