/** Choosing a picture, and showing it on the stage. */

import { exampleAddress, exampleFile } from "./api.js";
import { byId, button, el } from "./dom.js";
import { Panel } from "./panel.js";

const image = byId("picture-image");
const panel = new Panel(document.querySelector(".stage"));
const listeners = [];
let chosen = null;

/** Calls `listener` with every picture that is chosen, once the section with this id is served. */
export const onPicture = (section, listener) =>
  listeners.push({ section: byId(section), listener, last: null });

/** Hands the chosen picture to the served sections that do not have it yet. */
export function feedSections() {
  for (const entry of listeners) {
    if (entry.section.hidden || entry.last === chosen) continue;
    entry.last = chosen;
    entry.listener(chosen);
  }
}

export function choosePicture(file, title = "") {
  panel.stop();
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = title || `The chosen picture: ${file.name}`;
  byId("picture").hidden = byId("results").hidden = false;
  document.querySelector(".bench").classList.add("chosen");
  for (const other of byId("gallery-list").querySelectorAll("button"))
    other.ariaPressed = String(other.title === title);
  chosen = file;
  feedSections();
}

export function fillGallery(pictures) {
  byId("gallery").hidden = pictures.length === 0;
  byId("gallery-list").replaceChildren(...pictures.map(galleryItem));
}

function galleryItem({ name, title }) {
  const thumbnail = el("img", { src: exampleAddress(name), alt: title, decoding: "async" });
  const choose = () => panel.run(async (context) => choosePicture(await exampleFile(name, context), title));
  return el("li", {}, button(thumbnail, choose, { title, ariaPressed: "false" }));
}

image.addEventListener("load", () =>
  image.parentElement.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight));
image.addEventListener("error", () =>
  panel.say("This browser cannot show the picture. The service may still be able to read it.", "notice"));

byId("picture-file").addEventListener("change", ({ target }) => {
  if (target.files.length) choosePicture(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
