/** Captions; every word of the large one shows where the model looked. */

import { post } from "./api.js";
import { hideAttention, showAttention } from "./attention.js";
import { button, byId, decimal, el, fillToolbar, replaceKeepingFocus } from "./dom.js";
import { Panel } from "./panel.js";
import { onPicture } from "./pictures.js";

const STEP_MS = 650;
const panel = new Panel(byId("say"));
const line = byId("caption-words");
const playButton = byId("play-words");
let words = []; // of the large caption: {element, show}
let pinned = null; // the word that stays shown when the pointer leaves
let playing = null; // the timer

export function startCaptions() {
  onPicture("say", (file) => {
    clear();
    panel.run(async (context) => {
      const query = { beam: 5, n: 3, attention: true };
      const { captions, fit } = await post("caption", query, file, context);
      show(captions, fit, 0);
    });
  });
  line.addEventListener("pointerleave", rest);
  line.addEventListener("focusout", rest);
  playButton.addEventListener("click", () => (playing ? stop() : play()));
}

function clear() {
  stop();
  words = [];
  line.replaceChildren();
  byId("caption-others").replaceChildren();
  playButton.hidden = true;
}

function show(captions, fit, index) {
  stop();
  const { caption, attention } = captions[index];
  byId("caption-text").textContent = caption;
  words = captions[index].words.map((word, i) => wordOf(word, attention?.[i], fit));
  fillToolbar(line, words.flatMap(({ element }) => [element, " "]));
  playButton.hidden = !attention;
  const others = captions.map((other, i) => otherOf(other, () => show(captions, fit, i)));
  replaceKeepingFocus(byId("caption-others"), others.filter((_, i) => i !== index), byId("say-title"));
}

function wordOf(text, map, fit) {
  if (!map) return { element: el("span", {}, text), show: hideAttention };
  const word = { show: () => showAttention(text, map, fit) };
  word.element = button(text, () => pin(word));
  word.element.onpointerenter = word.element.onfocus = () => playing || point(word);
  return word;
}

function otherOf({ caption, log_probability }, choose) {
  const number = el("span", { title: "log-probability" }, decimal(log_probability, 1));
  return el("li", {}, button(caption, choose), number);
}

/** Back to the word that is pinned, or has the focus, or to none. */
function rest() {
  if (!playing) point(pinned ?? words.find(({ element }) => element.matches(":focus-visible")) ?? null);
}

function pin(word) {
  const again = pinned === word;
  stop();
  pinned = again ? null : word;
  rest();
}

/** Shows the attention of one word, or of none. */
function point(word) {
  for (const { element } of words) element.classList.toggle("shown", element === word?.element);
  if (word) word.show();
  else hideAttention();
}

function play() {
  let next = 0;
  const step = () => (next < words.length ? point(words[next++]) : stop());
  playing = setInterval(step, STEP_MS);
  playButton.textContent = "Stop";
  step();
}

function stop() {
  clearInterval(playing);
  playing = null;
  pinned = null;
  playButton.textContent = "Play the words";
  point(null);
}
