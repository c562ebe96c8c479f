/** Recording from the microphone, with a level and a clock. */

import { Problem } from "./api.js";
import { byId } from "./dom.js";

const LONGEST_S = 30;
const QUIETEST_DB = -60;
const REFUSALS = {
  NotAllowedError: "The microphone may not be used. Allow it for this page in the browser, then record again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "Another programme uses the microphone.",
};
const ENDINGS = { "audio/webm": "webm", "audio/mp4": "m4a", "audio/ogg": "ogg" };

const recordButton = byId("record");
const level = byId("level");
const time = byId("record-time");
const hint = time.textContent;

export function startRecorder(onSound, onProblem) {
  let recorder = null;
  recordButton.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    recordButton.disabled = true;
    try {
      recorder = await record((file) => {
        recorder = null;
        onSound(file);
      });
    } catch (error) {
      onProblem(new Problem(REFUSALS[error.name] ?? "This browser cannot record here."));
    } finally {
      recordButton.disabled = false;
    }
  });
}

async function record(done) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recorder.addEventListener("stop", () => {
    stream.getTracks().forEach((track) => track.stop());
    showIdle();
    done(fileOf(parts, recorder.mimeType));
  });
  recorder.start();
  setTimeout(() => recorder.state === "recording" && recorder.stop(), LONGEST_S * 1000);
  showLevel(stream, recorder);
  return recorder;
}

function fileOf(parts, mimeType) {
  const type = mimeType.split(";")[0];
  return new File(parts, `recording.${ENDINGS[type] ?? "webm"}`, { type });
}

function showLevel(stream, recorder) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const started = performance.now();
  recordButton.ariaPressed = "true";
  recordButton.lastElementChild.textContent = "Stop";
  level.hidden = false;

  function tick() {
    if (recorder.state !== "recording") return context.close();
    const elapsed_s = (performance.now() - started) / 1000;
    analyser.getFloatTimeDomainData(samples);
    level.value = loudness(samples);
    time.textContent = `${Math.floor(elapsed_s)} of ${LONGEST_S} s`;
    requestAnimationFrame(tick);
  }
  tick();
}

/** From 0 (quiet) to 1 (full scale), as ears judge it. */
function loudness(samples) {
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
  return Math.max(0, 1 - (10 * Math.log10(power + 1e-12)) / QUIETEST_DB);
}

function showIdle() {
  recordButton.ariaPressed = "false";
  recordButton.lastElementChild.textContent = "Record";
  level.hidden = true;
  time.textContent = hint;
}
