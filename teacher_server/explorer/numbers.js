// Numbers as people read them.

const MINUS = "\u2212";
const NOISE = 9.9e-7; // what float32 log-probabilities leave of a zero

/** Three significant digits, "7.2e−6" for the very small, "≈ 0" for noise, "–" for what is missing. */
export function short(value) {
  if (!Number.isFinite(value)) return "\u2013";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < NOISE) return "\u2248\u00a00";
  let text;
  if (size >= 1000) text = Math.round(size).toLocaleString("en");
  else if (size >= 0.001) text = String(Number(size.toPrecision(3)));
  else {
    const [digits, power] = size.toExponential(1).split("e");
    text = `${digits.replace(".0", "")}e${power.replace("-", MINUS)}`;
  }
  return value < 0 ? MINUS + text : text;
}

/** The same with its sign. */
export function signed(value) {
  return value > NOISE ? `+${short(value)}` : short(value);
}

/** A log-probability in nats as a share: "97.3%", "0.021%", "<0.001%". */
export function probability(logprob) {
  if (!Number.isFinite(logprob)) return "\u2013";
  const percent = 100 * Math.exp(logprob);
  if (percent > 99.95) return percent >= 100 ? "100%" : ">99.9%";
  if (percent < 0.001) return "<0.001%";
  return `${percent >= 10 ? percent.toFixed(1) : Number(percent.toPrecision(2))}%`;
}

/** A share in [0, 1]. */
export function share(value) {
  return Number.isFinite(value) ? probability(Math.log(value)) : "\u2013";
}

/** Seconds as "84 ms" or "1.25 s". */
export function duration(seconds) {
  return seconds < 0.9995 ? `${Math.round(1000 * seconds)} ms` : `${short(seconds)} s`;
}

/** "1 token", "2 tokens". */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
