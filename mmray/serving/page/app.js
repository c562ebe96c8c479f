/** Starts the sections, and takes files that are dropped on or pasted into the page. */

import { get } from "./api.js";
import { startCaptions } from "./captions.js";
import { byId } from "./dom.js";
import { startModels } from "./models.js";
import { choosePicture, fillGallery } from "./pictures.js";
import { startSearch } from "./search.js";
import { chooseSound, fillSoundExamples, startSounds } from "./sounds.js";
import { startStories } from "./stories.js";
import { startTags } from "./tags.js";

/** A sound when it says so or was dropped where sounds go; a picture else. */
function take(file, target) {
  const isPicture = file.type.startsWith("image/");
  const sound = /^(audio|video)\//.test(file.type) || (!isPicture && target.closest?.("#listen"));
  const section = byId(sound ? "listen" : "look");
  if (section.hidden) return;
  if (sound) chooseSound(file);
  else choosePicture(file);
  section.scrollIntoView();
}

function acceptFiles() {
  const body = document.body;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    body.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    body.classList.remove("dragging");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0], event.target);
  });
  addEventListener("paste", ({ clipboardData, target }) => {
    if (clipboardData?.files.length) take(clipboardData.files[0], target);
  });
}

async function showExamples() {
  // A service without examples is as good; people bring their own files.
  const { pictures, sounds } = await get("examples").catch(() => ({ pictures: [], sounds: [] }));
  fillGallery(pictures);
  fillSoundExamples(sounds);
}

startCaptions();
startTags();
startStories();
startSearch();
startSounds();
acceptFiles();
showExamples();
startModels();
