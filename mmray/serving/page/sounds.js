/** Sounds: choosing or recording one, and what is heard in it when. */

import { exampleFile, post } from "./api.js";
import { barParts, button, byId, decimal, el, fillToolbar, percent } from "./dom.js";
import { Panel } from "./panel.js";
import { loadPlayer, seek, setDuration } from "./player.js";
import { startRecorder } from "./recorder.js";

const KINDS = { objects: "Things", scenes: "Places" };
const NUM_COLOURS = 10; // as many as style.css names
const panel = new Panel(byId("listen"));

export function startSounds() {
  byId("sound-file").addEventListener("change", ({ target }) => {
    if (target.files.length) chooseSound(target.files[0]);
    target.value = "";
  });
  byId("record").addEventListener("click", () => panel.say(""));
  startRecorder(chooseSound, (problem) => panel.fail(problem));
}

export function fillSoundExamples(sounds) {
  const examples = byId("sound-examples");
  examples.hidden = sounds.length === 0;
  examples.replaceChildren(...sounds.map(({ name, title }) => {
    const choose = () => panel.run(async (context) => chooseSound(await exampleFile(name, context), title));
    return button(title, choose);
  }));
}

export function chooseSound(file, title = file.name) {
  byId("heard").hidden = false;
  byId("sound-name").textContent = title;
  byId("tracks").replaceChildren();
  byId("overall").replaceChildren();
  loadPlayer(file);
  panel.run(async (context) => show(await post("sound", { k: 5 }, file, context)));
}

function show(answer) {
  setDuration(answer.duration_s);
  const kinds = Object.keys(KINDS).filter((kind) => answer[kind]);
  const colours = coloursOf(kinds.map((kind) => answer[kind]));
  const edges = edgesOf(answer.times_s, answer.duration_s);
  byId("tracks").replaceChildren(...kinds.map((kind) =>
    track(KINDS[kind], runsOf(answer[kind].over_time, edges), colours)));
  byId("overall").replaceChildren(...kinds.map((kind) =>
    overall(KINDS[kind], answer[kind].overall, colours)));
  const best = kinds.map((kind) => answer[kind].overall[0]);
  byId("heard-text").textContent =
    `Heard: ${best.map(({ name, probability }) => `${name} ${percent(probability)}`).join(", ")}`;
}

/** A colour number for every name, the most probable names first, so that these differ. */
function coloursOf(parts) {
  const overall = parts.flatMap((part) => part.overall);
  const first = parts.flatMap((part) => part.over_time.map((top) => top[0]));
  const names = new Set([...overall, ...first].map(({ name }) => name));
  return new Map([...names].map((name, i) => [name, i % NUM_COLOURS]));
}

/** A window reaches halfway to its neighbours. */
function edgesOf(times, duration) {
  return [0, ...times.slice(1).map((time, i) => (times[i] + time) / 2), duration];
}

/** Neighbouring windows with the same best name belong together. */
function runsOf(overTime, edges) {
  const runs = [];
  overTime.forEach(([best], i) => {
    if (runs.at(-1)?.name !== best.name) runs.push({ name: best.name, start: edges[i], windows: [] });
    runs.at(-1).windows.push({ share: best.probability, length: edges[i + 1] - edges[i] });
    runs.at(-1).end = edges[i + 1];
  });
  return runs;
}

function track(title, runs, colours) {
  const ariaLabel = `${title} over time: choose one to hear it`;
  const toolbar = el("div", { className: "runs", role: "toolbar", ariaLabel });
  fillToolbar(toolbar, runs.map((run) => segment(run, colours)));
  return el("div", { className: "track" }, el("h3", {}, title), toolbar);
}

function segment({ name, start, end, windows }, colours) {
  const share = windows.reduce((sum, window) => sum + window.share, 0) / windows.length;
  const text = `${name}, ${decimal(start, 1)} to ${decimal(end, 1)} s, ${percent(share)}`;
  const properties = { className: `hue${colours.get(name)}`, title: text, ariaLabel: text };
  const item = button(el("span", {}, name), () => seek(start), properties);
  item.style.flexGrow = end - start;
  item.prepend(...windows.map(cell));
  return item;
}

function cell({ share, length }) {
  const element = el("i", { ariaHidden: "true" });
  element.style.flexGrow = length;
  element.style.opacity = share;
  return element;
}

function overall(title, predictions, colours) {
  const bars = predictions.map(({ name, probability }) =>
    el("li", { className: `bar hue${colours.get(name)}` }, ...barParts(name, probability)));
  return el("section", {}, el("h3", {}, `${title} in the whole sound`), el("ol", { className: "bars" }, ...bars));
}
