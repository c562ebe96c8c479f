/** The table of what is served; sections of what is not served are hidden. */

import { get } from "./api.js";
import { byId, decimal, el } from "./dom.js";
import { currentKey } from "./key.js";
import { Panel } from "./panel.js";
import { feedSections } from "./pictures.js";
import { fillExamples } from "./search.js";
import { fillStyles } from "./stories.js";

const TITLES = { tags: "Tags and search", caption: "Captions", story: "Stories", sound: "Sounds" };
const NONE = "\u2013";
const AGAIN_MS = 3000;
const panel = new Panel(byId("models"));
let again; // the timer of the next look

export function startModels() {
  byId("refresh-models").addEventListener("click", load);
  addEventListener("newkey", load);
  load();
}

function load() {
  clearTimeout(again);
  panel.run(async (context) => {
    const { models } = await get("models", {}, context);
    byId("model-rows").replaceChildren(...models.map(row));
    const byName = Object.fromEntries(models.map((model) => [model.name, model]));
    fillStyles(byName.story?.details.styles ?? []);
    showSections(byName);
    feedSections();
    if (!byId("find").hidden) fillExamples();
    // What a model can do is only known once it has started.
    if (models.some(({ state }) => state !== "ok")) again = setTimeout(load, AGAIN_MS);
  });
}

function showSections({ tags, caption, story, sound }) {
  const shown = {
    look: tags || caption || story,
    say: caption,
    tag: tags,
    tell: story?.details.styles,
    find: tags?.details.pictures > 0,
    listen: sound,
  };
  for (const element of document.querySelectorAll("[data-section]"))
    element.hidden = !shown[element.dataset.section];
  byId("attention-text").hidden = byId("attention-scale").hidden = !caption;
}

function row(model) {
  const { latency_ms: latency, batch_size: batch } = model;
  const state = el("span", { className: "state" }, model.state);
  state.dataset.state = model.state;
  return el("tr", { role: "row" },
    cell("Model", el("strong", {}, TITLES[model.name] ?? model.name), state, ...reportLink(model),
      el("small", {}, [model.kind, model.source, model.version].filter(Boolean).join(" \u00b7 "))),
    cell("Runs on", model.device ? `${model.device} \u00d7 ${model.replicas}` : NONE),
    cell("Requests", String(model.requests)),
    cell("Latency, p50 / p95", latency ? `${milliseconds(latency.p50)} / ${milliseconds(latency.p95)}` : NONE),
    cell("Batch", batch === null ? NONE : decimal(batch, 1)),
    cell("Measured in training", metricList(model.metrics)));
}

/** Links carry no key: where one is asked for, the page opens from disk only. */
function reportLink({ report }) {
  if (!report || currentKey()) return [];
  return [el("a", { href: report, target: "_blank", rel: "noopener" }, "what it learned")];
}

function cell(label, ...content) {
  const element = el("td", { role: "cell" }, ...content);
  element.dataset.label = label;
  return element;
}

function metricList(metrics) {
  const items = Object.entries(metrics ?? {}).map(([name, value]) =>
    el("li", {}, `${name.replaceAll("_", " ")} `, el("b", {}, String(Number(value.toPrecision(3))))));
  return items.length ? el("ul", { className: "metrics" }, ...items) : NONE;
}

const milliseconds = (value) => `${value < 10 ? decimal(value, 1) : Math.round(value)}\u202fms`;
