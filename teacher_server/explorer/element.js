// Elements are made here and nowhere else: text is always a text node, never markup.

/** An element with attributes, listeners and children (elements or strings). false, null and undefined are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A name and what it is, as <dt> and <dd>. */
export function term(name, ...is) {
  return [element("dt", {}, name), element("dd", {}, ...is)];
}
