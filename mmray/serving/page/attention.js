/** Where the captioner looked while it wrote a word, drawn over the picture. */

import { byId } from "./dom.js";

const canvas = byId("attention");
const text = byId("attention-text");
const image = byId("picture-image");
const hint = text.textContent;
const FINE = 96; // cells of the smoothed map, a side
const LARGEST = 640; // pixels of the canvas, the longer side

// From little to much attention: ever lighter, so that it can also be read without colour.
const SCALE = [
  [16, 12, 44, 0.72], [74, 26, 108, 0.66], [158, 44, 112, 0.54],
  [226, 92, 68, 0.42], [250, 174, 74, 0.32], [255, 240, 178, 0.26],
];

export function hideAttention() {
  canvas.hidden = true;
  text.textContent = hint;
}

/** `map` is a square grid; `fit` says how it lies over the picture ("pad" or "crop"). */
export function showAttention(word, map, fit) {
  const { naturalWidth: width, naturalHeight: height } = image;
  if (!width) return;
  const shrink = Math.min(1, LARGEST / Math.max(width, height));
  canvas.width = Math.round(width * shrink);
  canvas.height = Math.round(height * shrink);
  const side = (fit === "pad" ? Math.max : Math.min)(canvas.width, canvas.height);
  const context = canvas.getContext("2d");
  // Outside the square that the model saw there was no attention at all.
  context.fillStyle = `rgba(${colour(0).join()})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const [x, y] = [(canvas.width - side) / 2, (canvas.height - side) / 2];
  context.clearRect(x, y, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(heat(smooth(map)), x, y, side, side);
  canvas.hidden = false;
  text.textContent = `For \u201c${word}\u201d it looked mostly at the ${place(map)}.`;
  canvas.ariaLabel = text.textContent;
}

/** Cubic B-splines along both sides: smooth, and without the overshoot of other cubics. */
function smooth(map) {
  const position = (i) => ((i + 0.5) / FINE) * map.length - 0.5;
  const weights = Array.from({ length: FINE }, (_, i) => splineWeights(position(i), map.length));
  const rows = map.map((row) => weights.map((w) => dot(w, row)));
  return weights.map((w) => rows[0].map((_, x) => dot(w, rows.map((row) => row[x]))));
}

function splineWeights(position, count) {
  const weights = new Array(count).fill(0);
  for (let i = Math.floor(position) - 1; i <= position + 2; i++)
    weights[Math.max(0, Math.min(count - 1, i))] += bump(Math.abs(position - i));
  return weights;
}

function bump(distance) {
  if (distance >= 2) return 0;
  if (distance >= 1) return (2 - distance) ** 3 / 6;
  return 2 / 3 - distance ** 2 + distance ** 3 / 2;
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

function heat(map) {
  const most = Math.max(...map.flat());
  const pixels = new ImageData(FINE, FINE);
  map.flat().forEach((value, i) => {
    const [red, green, blue, alpha] = colour(value / most);
    pixels.data.set([red, green, blue, alpha * 255], 4 * i);
  });
  const cells = new OffscreenCanvas(FINE, FINE);
  cells.getContext("2d").putImageData(pixels, 0, 0);
  return cells;
}

function colour(share) {
  const position = share * (SCALE.length - 1);
  const low = Math.min(Math.floor(position), SCALE.length - 2);
  return SCALE[low].map((value, i) => value + (SCALE[low + 1][i] - value) * (position - low));
}

/** The cell with the most attention, in words. */
function place(map) {
  const cells = map.flat();
  const best = cells.indexOf(Math.max(...cells));
  const third = (index) => Math.floor((index * 3) / map.length);
  const row = ["top", "", "bottom"][third(Math.floor(best / map.length))];
  const column = ["left", "", "right"][third(best % map.length)];
  return [row, column].filter(Boolean).join(" ") || "centre";
}
