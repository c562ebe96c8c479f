/** Search by sums of tags and the chosen picture. */

import { get, post } from "./api.js";
import { button, byId, chip, decimal, el, replaceKeepingFocus } from "./dom.js";
import { Panel } from "./panel.js";
import { onPicture } from "./pictures.js";
import { suggestTags } from "./suggest.js";

const panel = new Panel(byId("find"));
const found = byId("found");
const usePicture = byId("use-picture");
let picture = null;
let sum = { plus: [], minus: [], picture: null };

export function startSearch() {
  onPicture("find", (file) => {
    picture = file;
    usePicture.hidden = false;
    if (sum.picture) change({ picture });
  });
  usePicture.addEventListener("click", () => {
    change({ picture });
    byId("sum").querySelector("button").focus(); // this button is gone now
  });
  suggestTags(byId("plus"), add);
  suggestTags(byId("minus"), takeAway);
}

const without = (tags, tag) => tags.filter((other) => other !== tag);
const add = (tag) => change({ plus: [...without(sum.plus, tag), tag], minus: without(sum.minus, tag) });
const takeAway = (tag) => change({ minus: [...without(sum.minus, tag), tag], plus: without(sum.plus, tag) });

function change(part) {
  sum = { ...sum, ...part };
  usePicture.hidden = !picture || Boolean(sum.picture);
  showSum();
  if (sum.picture || sum.plus.length) search();
  else forget();
}

function showSum() {
  const terms = [
    ...(sum.picture ? [pictureChip(sum.picture)] : []),
    ...sum.plus.map((tag) => chip(`+ ${tag}`, () => change({ plus: without(sum.plus, tag) }))),
    ...sum.minus.map((tag) =>
      chip(`\u2212 ${tag}`, () => change({ minus: without(sum.minus, tag) }), { className: "minus" })),
  ];
  replaceKeepingFocus(byId("sum"), terms, byId("find-title"));
}

function pictureChip(file) {
  const thumbnail = el("img", { src: URL.createObjectURL(file), alt: "" });
  thumbnail.onload = () => URL.revokeObjectURL(thumbnail.src);
  const item = chip("the picture", () => change({ picture: null }));
  item.prepend(thumbnail);
  return item;
}

function forget() {
  panel.stop();
  found.replaceChildren();
  byId("found-text").textContent =
    sum.minus.length ? "Add a tag, or the picture, to take something away from." : "";
}

function search() {
  panel.run(async (context) => {
    const query = { plus: sum.plus, minus: sum.minus, k: 24, thumbnails: true };
    const { pictures } = await post("search", query, sum.picture, context);
    byId("found-text").textContent =
      pictures.length ? `The nearest ${pictures.length} pictures` : "No picture is near.";
    replaceKeepingFocus(found, pictures.map(tile), byId("found-text"));
  });
}

function tile({ id, similarity, tags, thumbnail }) {
  const names = tags.join(", ") || "no tags";
  const image = thumbnail
    ? el("img", { src: `data:image/jpeg;base64,${thumbnail}`, alt: names })
    : el("span", { className: "blank" }, names);
  const number = el("span", { className: "similarity", title: "similarity" }, decimal(similarity, 2));
  const opener = button(image, () => toggleTray(opener, id, tags), { title: names, ariaExpanded: "false" });
  opener.append(number);
  return el("li", {}, opener);
}

/** Opens a row below the picture that offers its tags, or closes it. */
function toggleTray(opener, id, tags) {
  const open = opener.ariaExpanded === "true";
  found.querySelector(".tray")?.remove();
  for (const other of found.querySelectorAll("[aria-expanded]")) other.ariaExpanded = "false";
  if (open) return;
  opener.ariaExpanded = "true";
  opener.parentElement.after(tray(id, tags));
}

function tray(id, tags) {
  const offers = tags.flatMap((tag) => [
    button(`+ ${tag}`, () => add(tag)),
    button("\u2212", () => takeAway(tag), { className: "minus", ariaLabel: `Take ${tag} away` }),
  ]);
  const title = `Picture ${id}, ${tags.length ? "tagged" : "without tags"}`;
  return el("li", { className: "tray" }, el("p", { className: "hint" }, title), ...offers);
}

/** Sums to begin with, made of the first tags of the vocabulary; without them the section is as good. */
export async function fillExamples() {
  if (byId("sum-examples").hasChildNodes()) return;
  const { tags: [a, b, c, d] } = await get("tags", { k: 50 }).catch(() => ({ tags: [] }));
  const sums = [{ plus: [a], minus: [] }, { plus: [b, c], minus: [] }, { plus: [c], minus: [d] }];
  if (d) byId("sum-examples").replaceChildren(...sums.map(example));
}

function example({ plus, minus }) {
  const text = [...plus.map((tag) => `+ ${tag}`), ...minus.map((tag) => `\u2212 ${tag}`)].join(" ");
  return button(text, () => change({ plus, minus, picture: null }));
}
