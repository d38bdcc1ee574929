/** The forms of models that take numbers: as JSON, or drawn where they are the pixels of a digit. */

import { el } from "./dom.js";
import { Drawing } from "./drawing.js";
import { BadField, field } from "./fields.js";
import { jsonOf } from "./strict.js";

const MOST_DRAWN = 32;
const MOST_ZEROS = 4096;

/** The side of the square picture of a digit that a model of numbers takes; 0 if it takes something else. */
export function drawnSize(schema) {
  const [input, ...others] = schema.inputs;
  if (!input || others.length || input.dtype === "BYTES" || schema.labels.length !== 10) return 0;
  const [batch, ...shape] = input.shape.map(Number);
  if (batch !== -1) return 0;
  const [height, width] = shape.length === 1 ? [Math.sqrt(shape[0]), Math.sqrt(shape[0])] : shape.slice(-2);
  const single = shape.slice(0, -2).every((axis) => axis === 1);
  return single && height === width && Number.isInteger(height) && height > 1 && height <= MOST_DRAWN ? height : 0;
}

/** Numbers as JSON, one area for each input of the network. */
export class NumbersForm {
  constructor(schema, card, onChange) {
    this.batched = Number(schema.max_rows) > 0;
    this.inputs = schema.inputs.map((input) => {
      const shape = input.shape.map(Number).slice(this.batched ? 1 : 0);
      const area = el("textarea", { rows: "5", spellcheck: "false", class: "code" });
      const zeros = filled(
        shape.map((axis) => (axis < 0 ? 1 : axis)),
        input.dtype,
      );
      area.value = zeros === null ? "" : JSON.stringify(zeros);
      return { name: input.name, area, shape, dtype: input.dtype };
    });
    const send = card?.input?.send ?? card?.send;
    this.element = el(
      "div",
      { class: "fields one", input: onChange },
      send
        ? el("p", { class: "hint", text: `To send: ${typeof send === "string" ? send : JSON.stringify(send)}` })
        : null,
      ...this.inputs.map(({ name, area, shape, dtype }) =>
        field(name, area, `${this.batched ? "One row" : "The whole input"} as JSON: ${dtype} ${told(shape)}`),
      ),
    );
  }

  request() {
    const values = this.inputs.map(({ name, area, dtype }) => [name, parsed(name, area, dtype)]);
    if (!this.batched) return { inputs: Object.fromEntries(values) };
    if (values.length === 1) return { rows: [values[0][1]] };
    return { inputs: Object.fromEntries(values.map(([name, row]) => [name, [row]])) };
  }

  state() {
    return Object.fromEntries(this.inputs.map(({ name, shape, area }) => [`${name} ${shape}`, area.value]));
  }

  restore(state) {
    for (const { name, shape, area } of this.inputs) area.value = state[`${name} ${shape}`] ?? area.value;
  }
}

function told(shape) {
  return `[${shape.map((axis) => (axis < 0 ? "any" : axis)).join(", ")}]`;
}

function parsed(name, area, dtype) {
  try {
    return jsonOf(area.value, dtype.includes("INT"));
  } catch (error) {
    if (error instanceof RangeError) throw new BadField(`${name}: ${error.message}`, area);
    throw new BadField(`${name}: this is not JSON (${error.message}). A row of numbers is written [0.5, 1, 2].`, area);
  }
}

function filled(shape, dtype) {
  if (shape.reduce((product, axis) => product * axis, 1) > MOST_ZEROS) return null;
  const [axis, ...rest] = shape;
  if (axis === undefined) return dtype === "BYTES" ? "" : dtype === "BOOL" ? false : 0;
  return Array.from({ length: axis }, () => filled(rest, dtype));
}

/** A digit is drawn, or its pixels are typed. */
export class DigitForm {
  constructor(schema, size, card, onChange, onComplete) {
    const [input] = schema.inputs;
    this.size = size;
    this.numbers = new NumbersForm(schema, card, onChange);
    const [{ area, shape }] = this.numbers.inputs;
    this.area = area;
    this.shape = shape.map((axis) => (axis < 0 ? 1 : axis));
    this.full = fullInk(card, input.dtype);
    this.drawing = new Drawing(size, () => {
      this.#write(this.drawing.values());
      onChange();
      onComplete();
    });
    this.drawing.clear();
    this.area.addEventListener("input", () => this.#read());
    this.element = el(
      "div",
      { class: "digit" },
      el("p", { text: "Draw a digit:" }),
      el(
        "div",
        { class: "digit-row" },
        this.drawing.canvas,
        el(
          "div",
          {},
          el("p", { class: "hint", text: `As the model gets it, ${size} × ${size}:` }),
          this.drawing.preview,
          el("button", { type: "button", text: "Clear", click: () => this.#clear(onChange) }),
        ),
      ),
      el("details", {}, el("summary", { text: "Its pixels as numbers" }), this.numbers.element),
    );
  }

  request() {
    const sent = this.numbers.request();
    const pixels = [sent.rows ?? Object.values(sent.inputs)].flat(Infinity);
    if (this.drawing.empty && pixels.every((value) => value === 0)) {
      throw new BadField("Draw a digit first.", this.drawing.canvas);
    }
    return sent;
  }

  sample() {
    try {
      return this.numbers.request();
    } catch {
      return null;
    }
  }

  state() {
    return this.numbers.state();
  }

  restore(state) {
    this.numbers.restore(state);
    this.#read();
  }

  #clear(onChange) {
    this.drawing.clear();
    this.#write(new Array(this.size * this.size).fill(0));
    onChange();
  }

  #write(values) {
    this.drawing.show(values);
    const inked = values
      .map((value) => Math.round(value * this.full * 100) / 100)
      .map(this.full > 1 ? Math.round : (value) => value);
    this.area.value = JSON.stringify(shaped(inked, this.shape));
  }

  #read() {
    try {
      this.drawing.show(
        JSON.parse(this.area.value)
          .flat(Infinity)
          .map((value) => value / this.full),
      );
    } catch {
      // Half-typed JSON; asking about it says so.
    }
  }
}

/** The value of full ink: the last number of what the card says to send, such as "ink from 0 (none) to 16 (full)". */
function fullInk(card, dtype) {
  const send = card?.input?.send ?? "";
  const range = /\b0\b[^0-9]*?\bto\b\s*(\d+(?:\.\d+)?)/.exec(send);
  if (range) return Number(range[1]);
  return dtype === "UINT8" ? 255 : 1;
}

function shaped(values, shape) {
  if (shape.length <= 1) return values;
  const size = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, at) => shaped(values.slice(at * size, (at + 1) * size), shape.slice(1)));
}
