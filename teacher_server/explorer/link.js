// A state of the form as the part of the address after "#", and back.

/** Characters of an image that a link may carry: mail and chat cut longer ones. */
export const LONGEST_IMAGE = 32_000;
const IMAGE = /^data:image\/(png|jpeg|webp);base64,([A-Za-z0-9+/]+={0,2})$/;

/** Whether it is the data address of a picture that can be scored. */
export function isImage(url) {
  return typeof url === "string" && IMAGE.test(url);
}

/**
 * The hash of a state {system, question, answer, text_context, image, example}. An example is linked by name; another
 * image is in the link, or left out where it is too long: then `left_out` is true.
 */
export function toHash({ image, ...rest }) {
  const values = new URLSearchParams({ state: encode(JSON.stringify(rest)) });
  const fits = Boolean(image) && !rest.example && image.length <= LONGEST_IMAGE;
  if (fits) {
    const [, kind, data] = IMAGE.exec(image);
    values.set("image", `${kind}.${data.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
  }
  return { hash: `#${values}`, left_out: Boolean(image) && !rest.example && !fits };
}

/** The state of a hash, or null where it holds none. Raises Error where it is damaged. */
export function fromHash(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  if (!values.has("state")) return null;
  try {
    const state = JSON.parse(decode(values.get("state")));
    const [kind, data] = (values.get("image") ?? "").split(".");
    const image = data ? `data:image/${kind};base64,${padded(data)}` : "";
    if (image && !isImage(image)) throw new Error("not an image");
    const text = (name) => (typeof state[name] === "string" ? state[name] : "");
    return {
      system: text("system"),
      question: text("question"),
      answer: text("answer"),
      text_context: state.text_context === "grey" ? "grey" : "drop",
      example: text("example"),
      had_image: Boolean(state.had_image),
      image,
    };
  } catch {
    throw new Error("The link is damaged: something of it is missing. Copy it again, whole.");
  }
}

function encode(text) {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function decode(text) {
  const bytes = atob(padded(text));
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
}

function padded(text) {
  const plain = text.replaceAll("-", "+").replaceAll("_", "/");
  return plain + "=".repeat((4 - (plain.length % 4)) % 4);
}
