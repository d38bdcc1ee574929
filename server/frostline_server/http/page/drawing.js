/** A canvas to draw a digit on, brought to the few pixels of the network. */

import { el } from "./dom.js";

const SIDE = 256;
const PEN = 36;

/**
 * The grey values of a drawing [size * size], 0 to 1: what is drawn, enlarged to fill the picture and centred, since
 * data sets of digits are cut out like this.
 * @param {Uint8ClampedArray} ink RGBA pixels of a square, of which the opacity is the ink
 * @param {number} side of the square
 * @param {number} size of the picture
 */
export function downsampled(ink, side, size) {
  let [left, top, right, bottom] = [side, side, -1, -1];
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      if (ink[(y * side + x) * 4 + 3] > 0) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
      }
    }
  }
  const values = new Array(size * size).fill(0);
  if (right < 0) return values;
  const long = Math.max(right - left, bottom - top) + 1;
  const cell = long / size;
  const startX = (left + right + 1 - long) / 2;
  const startY = (top + bottom + 1 - long) / 2;
  const samples = Math.max(1, Math.ceil(cell));
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      let sum = 0;
      for (let i = 0; i < samples; i += 1) {
        for (let j = 0; j < samples; j += 1) {
          const y = Math.floor(startY + (row + (i + 0.5) / samples) * cell);
          const x = Math.floor(startX + (column + (j + 0.5) / samples) * cell);
          if (x >= 0 && y >= 0 && x < side && y < side) sum += ink[(y * side + x) * 4 + 3];
        }
      }
      values[row * size + column] = sum / (samples * samples * 255);
    }
  }
  return values;
}

/** Where a digit is drawn with the mouse, a finger or a pen. */
export class Drawing {
  #strokes = [];

  /**
   * @param {number} size pixels of a side of the network's picture
   * @param {function(): void} onChange after each stroke
   */
  constructor(size, onChange) {
    this.size = size;
    this.onChange = onChange;
    this.canvas = el("canvas", {
      width: SIDE,
      height: SIDE,
      class: "drawing",
      role: "img",
      "aria-label": "Where a digit is drawn with a mouse, a finger or a pen. Without one, type its pixels below.",
    });
    this.preview = el("canvas", {
      width: size,
      height: size,
      class: "pixels",
      role: "img",
      "aria-label": "The drawing as the model gets it",
    });
    this.canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.#go(event));
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => this.#end());
  }

  get empty() {
    return this.#strokes.length === 0;
  }

  clear() {
    this.#strokes = [];
    this.#paint();
    this.show(new Array(this.size * this.size).fill(0));
  }

  /** The picture, [size * size] from 0 to 1. */
  values() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    return downsampled(context.getImageData(0, 0, SIDE, SIDE).data, SIDE, this.size);
  }

  /** Show values from 0 to 1 as what the model gets. */
  show(values) {
    const context = this.preview.getContext("2d");
    const image = context.createImageData(this.size, this.size);
    values.forEach((value, at) => {
      const grey = 255 - Math.round(Math.min(Math.max(value, 0), 1) * 255);
      image.data.set([grey, grey, grey, 255], at * 4);
    });
    context.putImageData(image, 0, 0);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  #begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.#strokes.push([this.#at(event)]);
    this.#paint();
  }

  #go(event) {
    if (!this.drawing) return;
    this.#strokes.at(-1).push(this.#at(event));
    this.#paint();
  }

  #end() {
    if (!this.drawing) return;
    this.drawing = false;
    this.onChange();
  }

  #paint() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, SIDE, SIDE);
    context.lineWidth = PEN;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.strokeStyle = "#10202f";
    for (const [start, ...rest] of this.#strokes) {
      context.beginPath();
      context.moveTo(...start);
      for (const point of rest.length ? rest : [start]) context.lineTo(...point);
      context.stroke();
    }
  }
}
