/** Tags of the picture; those that are known to be right help to find the others. */

import { post } from "./api.js";
import { barParts, byId, chip, el, replaceKeepingFocus } from "./dom.js";
import { Panel } from "./panel.js";
import { onPicture } from "./pictures.js";
import { suggestTags } from "./suggest.js";

const panel = new Panel(byId("tag"));
let picture = null;
let given = [];

export function startTags() {
  onPicture("tag", (file) => {
    picture = file;
    given = [];
    byId("tags").replaceChildren();
    refresh();
  });
  suggestTags(byId("known"), (tag) => setGiven([...given, tag]));
}

function setGiven(tags) {
  given = [...new Set(tags)];
  refresh();
}

function refresh() {
  const remove = (tag) => setGiven(given.filter((other) => other !== tag));
  replaceKeepingFocus(byId("given"), given.map((tag) => chip(tag, () => remove(tag))), byId("tag-title"));
  panel.run(async (context) => {
    const { tags } = await post("tags", { k: 12, given }, picture, context);
    const open = tags.filter(({ name }) => !given.includes(name));
    replaceKeepingFocus(byId("tags"), open.map(bar), byId("tag-title"));
    byId("tags-text").textContent = `Tags: ${open.slice(0, 5).map(({ name }) => name).join(", ")}`;
  });
}

function bar({ name, probability }) {
  const choose = () => setGiven([...given, name]);
  const properties = { type: "button", className: "bar", title: `${name} is right`, onclick: choose };
  return el("li", {}, el("button", properties, ...barParts(name, probability)));
}
