// Small tools for the page's nodes: make one, change one only where it differs, keep a list in step with data.

/** Make an element. `props`: `class`, `text`, `on` (listeners), `data`, and attributes by their name. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else attribute(node, name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) attribute(node, name, value);
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Set text where it differs. */
export function text(node, value) {
  const shown = String(value);
  if (node.textContent !== shown) node.textContent = shown;
}

/** Set an attribute where it differs; null, undefined and false remove it. */
export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const shown = value === true ? "" : String(value);
  if (node.getAttribute(name) !== shown) node.setAttribute(name, shown);
}

export function className(node, name, on) {
  if (node.classList.contains(name) !== Boolean(on)) node.classList.toggle(name, Boolean(on));
}

export function hide(node, hidden) {
  if (node.hidden !== Boolean(hidden)) node.hidden = Boolean(hidden);
}

/** A custom property of the style, such as the length of a bar. */
export function property(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

/**
 * Keep `parent`'s children in step with `items`: nodes are found by key, made when new, moved only when they must be,
 * and never made anew, so that focus, selection and scrolling stay.
 */
export function keyed(parent, items, keyOf, make, update = () => {}) {
  const known = parent.nodesByKey ?? (parent.nodesByKey = new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const [index, item] of items.entries()) {
    const key = keyOf(item, index);
    wanted.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(item, index);
      known.set(key, node);
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    update(node, item, index);
  }
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}

export const icon = (name) => {
  const use = s("use", { href: `#i-${name}` });
  const image = s("svg", { class: "icon", "aria-hidden": "true" }, use);
  image.use = use;
  return image;
};
