/** A text field that completes tags of the vocabulary: the combobox pattern of ARIA. */

import { get } from "./api.js";
import { debounce, el } from "./dom.js";

const QUIET_MS = 120;
const SHOWN = 8;

export function suggestTags(input, choose) {
  const list = el("ul", { id: `${input.id}-list`, role: "listbox", ariaLabel: "Tags", hidden: true });
  input.after(list);
  input.role = "combobox";
  input.ariaAutoComplete = "list";
  input.setAttribute("aria-controls", list.id);
  let active = -1;
  let running = new AbortController();

  function show(tags) {
    list.replaceChildren(...tags.map((tag, i) => option(tag, i)));
    list.hidden = tags.length === 0;
    input.ariaExpanded = String(!list.hidden);
    point(-1);
  }

  function option(tag, i) {
    const element = el("li", { id: `${list.id}-${i}`, role: "option" }, tag);
    // The field would lose the focus, and close the list, before a click got here.
    element.onpointerdown = (event) => event.preventDefault();
    element.onclick = () => take(tag);
    return element;
  }

  function point(index) {
    active = index;
    [...list.children].forEach((item, i) => (item.ariaSelected = String(i === index)));
    const id = list.children[index]?.id;
    if (id) input.setAttribute("aria-activedescendant", id);
    else input.removeAttribute("aria-activedescendant");
    list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  function close() {
    running.abort();
    show([]);
  }

  function take(tag) {
    if (!tag) return;
    close();
    input.value = "";
    choose(tag);
  }

  const suggest = debounce(async () => {
    running.abort();
    running = new AbortController();
    const prefix = input.value.trim().toLowerCase();
    // Suggestions are a help only: what fails here fails again, and aloud, in the call itself.
    const answer = await get("tags", { prefix, k: SHOWN }, running).catch(() => ({ tags: [] }));
    if (document.activeElement === input && input.value.trim().toLowerCase() === prefix) show(answer.tags);
  }, QUIET_MS);

  const keys = {
    ArrowDown: () => point(Math.min(active + 1, list.children.length - 1)),
    ArrowUp: () => point(Math.max(active - 1, -1)),
    Enter: () => take((list.children[active] ?? list.firstElementChild)?.textContent ?? input.value.trim()),
    Escape: close,
  };
  input.addEventListener("input", suggest);
  input.addEventListener("focus", suggest);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}
