// What the page asks the server, and what a refusal says.

const KEPT = "vgs-token";
const NAMES = { 401: "The server wants a token", 413: "Too large", 429: "Too much at once", 503: "Not ready" };

/** The token of this tab, "" without one. */
export const token = {
  get: () => sessionStorage.getItem(KEPT) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEPT, value) : sessionStorage.removeItem(KEPT)),
};

/** An answer that is no success, or none at all (status 0). */
export class Refusal extends Error {
  constructor(status, problem) {
    const said = problem.detail || problem.title || `status ${status}`;
    super(said.replace(/^[a-z]+(?=[ ,])/, (word) => word[0].toUpperCase() + word.slice(1)));
    this.status = status;
    this.problem = problem;
  }

  /** A few words. */
  get title() {
    return NAMES[this.status] ?? (this.status === 0 ? "No answer" : "This can't be scored");
  }

  /** Which part of the form it is about: "picture", "question", "answer", or "". */
  get part() {
    const field = (this.problem.field ?? "").toLowerCase();
    if (/image|media|picture/.test(field)) return "picture";
    if (/response/.test(field)) return "answer";
    return /message|content|question/.test(field) ? "question" : "";
  }

  /** [name, value] of what else the server said. */
  get facts() {
    const { field, value, limit, retry_after_ms, error_id } = this.problem;
    const wait = retry_after_ms ? `in ${(retry_after_ms / 1000).toLocaleString("en")} s` : "";
    const facts = [["Field", field], ["Was", value], ["Limit", limit], ["Try again", wait], ["Number in the server's log", error_id]];
    return facts.filter(([, said]) => said);
  }
}

/** JSON of a path on this server; `body` makes it a POST. Raises Refusal, or AbortError where `signal` said so. */
export async function ask(path, body, signal) {
  const headers = { Accept: "application/json, application/problem+json" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const settings = { headers, signal, credentials: "omit", cache: "no-store", redirect: "error" };
  let response;
  try {
    response = await fetch(path, body === undefined ? settings : { ...settings, method: "POST", body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { detail: "The server did not answer. Is it running, and is the way to it open?" });
  }
  const said = await response.json().catch(() => null);
  if (!response.ok) throw new Refusal(response.status, said ?? { detail: `The server answered with status ${response.status}.` });
  if (said === null) throw new Refusal(response.status, { detail: "The server's answer is not JSON: is it another server?" });
  return said;
}
