/** Stories about the picture, shown while they are written. */

import { events, postForStream, Problem } from "./api.js";
import { byId, decimal, el } from "./dom.js";
import { Panel } from "./panel.js";
import { onPicture } from "./pictures.js";

const LARGEST_SEED = 2 ** 31;
const panel = new Panel(byId("tell"));
const drafts = byId("drafts");
const story = byId("story");
const about = byId("story-about");
let picture = null;
let seed = 0;

export function startStories() {
  onPicture("tell", (file) => {
    picture = file;
    tell();
  });
  byId("styles").addEventListener("change", tell);
  byId("strength").addEventListener("change", tell);
  byId("another-story").addEventListener("click", () => {
    seed = Math.floor(Math.random() * LARGEST_SEED);
    tell();
  });
}

export function fillStyles(styles) {
  if (byId("styles").querySelectorAll("input").length === styles.length) return; // keep what is chosen
  const choices = styles.map((style, i) => {
    const input = el("input", { type: "radio", name: "style", value: style, checked: i === 0 });
    return el("label", {}, input, el("span", {}, style));
  });
  byId("styles").replaceChildren(byId("styles").firstElementChild, ...choices);
}

function tell() {
  if (!picture) return;
  for (const part of [drafts, story, about]) part.replaceChildren();
  panel.run(async (context) => {
    const style = document.querySelector("[name=style]:checked").value;
    const query = { style, strength: byId("strength").value, n: 1, seed, stream: true };
    try {
      await write(await postForStream("story", query, picture, context));
    } finally {
      if (!context.signal.aborted) drafts.replaceChildren(); // a newer story may have its own by now
    }
  });
}

async function write(response) {
  for await (const [name, data] of events(response)) {
    show[name]?.(data);
    if (name === "stories") return;
  }
  throw new Problem("The story broke off. Another one may go better.");
}

const show = {
  captions({ captions }) {
    about.textContent = `About: ${captions.join(" \u00b7 ")}`;
  },
  drafts({ drafts: texts }) {
    drafts.replaceChildren(...texts.map((text) => el("p", {}, text)));
  },
  stories({ stories, captions }) {
    if (!stories.length) throw new Problem("It finds nothing to tell of this picture.");
    story.replaceChildren(...stories.map((one) => el("p", {}, one.story)));
    show.captions({ captions });
    about.append(` \u00b7 keeps to them: ${decimal(stories[0].match, 2)}`);
  },
  problem(problem) {
    throw new Problem(problem.detail || problem.title);
  },
};
