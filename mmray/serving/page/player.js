/** Plays the chosen sound, draws its waveform, and shows where in it we are. */

import { byId, decimal } from "./dom.js";

const DRAWN_RATE = 8000; // Hz; more cannot be seen
const LARGEST_DRAWN = 64 * 2 ** 20; // bytes of a file; decoded, it is many times as large
const BAR = 3, GAP = 2; // pixels
const STEP_S = 1;

const audio = byId("audio");
const playButton = byId("play");
const wave = byId("wave");
const canvas = wave.querySelector("canvas");
const note = byId("sound-note");
let samples = null; // Float32Array of the first channel, or null when it cannot be drawn
let duration_s = 0;

export async function loadPlayer(file) {
  audio.pause();
  showPaused();
  URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(file);
  playButton.disabled = byId("playhead").hidden = wave.hidden = false;
  samples = null;
  note.textContent = "";
  setDuration(0);
  const source = audio.src;
  const decoded = await decode(file);
  if (audio.src !== source) return; // another sound has been chosen meanwhile
  samples = decoded?.getChannelData(0) ?? null;
  if (!decoded) missing("draw", wave);
  setDuration(duration_s || decoded?.duration || 0);
}

export function setDuration(seconds) {
  duration_s = seconds;
  wave.ariaValueMax = String(seconds);
  draw();
}

export function seek(seconds) {
  audio.currentTime = Math.max(0, Math.min(seconds, duration_s));
  draw();
}

/** Says what this browser cannot do, and hides what stands for it; the service may well be able to. */
function missing(verb, element) {
  element.hidden = true;
  note.textContent = `This browser cannot ${verb} the sound. What is heard when still holds.`;
}

function showPaused() {
  playButton.ariaLabel = "Play";
}

function decode(file) {
  if (file.size > LARGEST_DRAWN) return null;
  const context = new OfflineAudioContext(1, 1, DRAWN_RATE);
  return file.arrayBuffer().then((bytes) => context.decodeAudioData(bytes)).catch(() => null);
}

function draw() {
  const share = duration_s ? Math.min(1, audio.currentTime / duration_s) : 0;
  byId("playhead").style.left = `${share * 100}%`;
  byId("sound-time").textContent = `${decimal(audio.currentTime, 1)} / ${decimal(duration_s, 1)} s`;
  wave.ariaValueNow = String(audio.currentTime);
  wave.ariaValueText = `${decimal(audio.currentTime, 1)} of ${decimal(duration_s, 1)} seconds`;
  drawWave(share);
}

function drawWave(share) {
  const scale = devicePixelRatio;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.fillStyle = getComputedStyle(canvas).color;
  const bars = peaks(Math.floor(width / (BAR + GAP)));
  const loudest = Math.max(...bars, 1e-6);
  bars.forEach((peak, i) => {
    const length = Math.max(2, (peak / loudest) * height);
    context.globalAlpha = i / bars.length < share ? 1 : 0.4;
    context.beginPath();
    context.roundRect(i * (BAR + GAP), (height - length) / 2, BAR, length, BAR / 2);
    context.fill();
  });
}

function peaks(count) {
  if (!samples) return new Array(count).fill(0);
  const step = samples.length / count;
  return Array.from({ length: count }, (_, i) =>
    samples.subarray(i * step, (i + 1) * step).reduce((most, value) => Math.max(most, Math.abs(value)), 0));
}

function follow() {
  draw();
  if (!audio.paused) requestAnimationFrame(follow);
}

function seekTo({ clientX }) {
  const { left, width } = wave.getBoundingClientRect();
  seek(((clientX - left) / width) * duration_s);
}

const keys = {
  ArrowRight: () => seek(audio.currentTime + STEP_S),
  ArrowLeft: () => seek(audio.currentTime - STEP_S),
  Home: () => seek(0),
  End: () => seek(duration_s),
  " ": () => playButton.click(),
};

playButton.addEventListener("click", () => (audio.paused ? audio.play().catch(showPaused) : audio.pause()));
audio.addEventListener("play", () => {
  playButton.ariaLabel = "Pause";
  follow();
});
audio.addEventListener("pause", showPaused);
audio.addEventListener("error", () => {
  playButton.disabled = true;
  missing("play", byId("playhead"));
});
wave.addEventListener("pointerdown", (event) => {
  wave.setPointerCapture(event.pointerId);
  seekTo(event);
});
wave.addEventListener("pointermove", (event) => wave.hasPointerCapture(event.pointerId) && seekTo(event));
wave.addEventListener("keydown", (event) => {
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
new ResizeObserver(draw).observe(wave);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
