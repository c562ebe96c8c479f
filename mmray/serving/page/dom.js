/** Small parts that every section is made of. */

export const byId = (id) => document.getElementById(id);

/** An element with these properties; children are elements or text, never markup. */
export function el(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export const button = (text, onclick, properties = {}) =>
  el("button", { type: "button", onclick, ...properties }, text);

export const percent = (share) =>
  share > 0 && share < 0.005 ? "<1\u202f%" : `${Math.round(share * 100)}\u202f%`;

/** Minus as typographers set it, so that a screen reader says it too. */
export const decimal = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

/** What a horizontal bar is made of: its name, its length, its number. */
export function barParts(name, share) {
  const length = el("i");
  length.style.width = `${share * 100}%`;
  return [el("span", {}, name), el("b", { ariaHidden: "true" }, length), el("em", {}, percent(share))];
}

/** A chip with a button that removes it. */
export function chip(text, remove, properties = {}) {
  const cross = button("\u00d7", remove, { ariaLabel: `Remove ${text}` });
  return el("li", properties, el("span", {}, text), cross);
}

/** Replaces children; a focus among their buttons stays where it was, or goes to `fallback`. */
export function replaceKeepingFocus(parent, children, fallback) {
  const index = buttonsOf(parent).indexOf(document.activeElement);
  parent.replaceChildren(...children);
  if (index < 0) return;
  const items = buttonsOf(parent);
  fallback.tabIndex = -1;
  (items[Math.min(index, items.length - 1)] ?? fallback).focus();
}

/** Puts children into a toolbar: one stop for the Tab key, arrow keys between its buttons. */
export function fillToolbar(toolbar, children) {
  toolbar.replaceChildren(...children);
  buttonsOf(toolbar).forEach((item, i) => (item.tabIndex = i ? -1 : 0));
  toolbar.onkeydown = (event) => moveFocus(toolbar, event);
}

const buttonsOf = (parent) => [...parent.querySelectorAll("button")];

function moveFocus(toolbar, event) {
  const items = buttonsOf(toolbar);
  const now = items.indexOf(document.activeElement);
  const goals = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: items.length - 1 };
  const goal = items[goals[event.key]];
  if (!goal) return;
  event.preventDefault();
  items.forEach((item) => (item.tabIndex = item === goal ? 0 : -1));
  goal.focus();
}

/** Calls `act` once things have been quiet for a while. */
export function debounce(act, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}
