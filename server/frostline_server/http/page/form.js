/** The form of a model, made from its schema: a table's fields, a text, a picture, a drawing, or numbers as JSON. */

import { el, freshId, percent, plural, readable } from "./dom.js";
import { Drawing } from "./drawing.js";

const FEW_CATEGORIES = 12;
const MOST_DRAWN = 32;
const MOST_ZEROS = 4096;

/** What was typed cannot be sent; `field` is the element to correct. */
export class BadField extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/**
 * The form that fits a model. Each has `element`, `request()` (what to send: `rows` or `inputs` as JSON, or a `file`),
 * `state()` and `restore()`; where it is not complete from the start, `sample()` is a request like one of its own.
 * @param {Object} schema
 * @param {Object|null} card
 * @param {function(): void} onChange something was typed
 * @param {function(): void} onComplete a picture is there to be asked about
 */
export function formFor(schema, card, onChange, onComplete) {
  const [column] = schema.columns;
  if (column?.kind === "TEXT") return new TextForm(column, onChange);
  if (column?.kind === "IMAGE") return new PictureForm(column, onChange, onComplete);
  if (column) return new TableForm(schema, onChange);
  const size = drawnSize(schema);
  return size ? new DigitForm(schema, size, card, onChange, onComplete) : new NumbersForm(schema, card, onChange);
}

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

/** One field with its label and hint. */
function field(label, input, hint) {
  input.id ||= freshId("field");
  const note = hint ? el("p", { class: "hint", id: `${input.id}-hint`, text: hint }) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return el("div", { class: "field" }, el("label", { for: input.id, text: label }), input, note);
}

function missingHint(column) {
  return column.share_missing > 0 ? `, ${percent(column.share_missing)} missing` : "";
}

class NumberField {
  constructor(column) {
    this.column = column;
    this.input = el("input", { type: "number", step: "any", placeholder: "(missing)", autocomplete: "off" });
    const seen = Number.isFinite(column.lowest) && Number.isFinite(column.highest);
    const hint = seen ? `${readable(column.lowest)} to ${readable(column.highest)} in training` : "a number";
    this.element = field(column.name, this.input, hint + missingHint(column));
  }

  get value() {
    if (this.input.validity.badInput) throw new BadField(`${this.column.name}: a number was expected.`, this.input);
    return this.input.value === "" ? null : Number(this.input.value);
  }

  // A single-precision number such as 3.4000000953674316 is 3.4 to who typed it.
  set value(value) {
    this.input.value = value === null ? "" : String(shortened(value));
  }
}

function shortened(value) {
  const short = Number(value.toPrecision(7));
  return Math.fround(short) === Math.fround(value) ? short : value;
}

class CategoryField {
  constructor(column) {
    this.categories = column.categories;
    this.other = el("input", { type: "text", placeholder: "another value", "aria-label": `${column.name}, another value`, hidden: true });
    this.input = el(
      "select",
      { change: () => this.#showOther() },
      el("option", { value: "missing", text: "(missing)" }),
      ...column.categories.map((text, at) => el("option", { value: String(at), text: text === "" ? "(empty)" : text })),
      el("option", { value: "other", text: "another value …" }),
    );
    this.element = field(column.name, this.input, `${plural(column.categories.length, "known value")}${missingHint(column)}`);
    this.input.after(this.other);
  }

  #showOther() {
    this.other.hidden = this.input.value !== "other";
  }

  get value() {
    const { value } = this.input;
    if (value === "missing") return null;
    return value === "other" ? this.other.value : this.categories[Number(value)];
  }

  set value(value) {
    const at = this.categories.indexOf(value);
    this.input.value = value === null ? "missing" : at >= 0 ? String(at) : "other";
    if (this.input.value === "other") this.other.value = value;
    this.#showOther();
  }
}

class TypedCategoryField {
  constructor(column) {
    const list = el("datalist", { id: freshId("categories") }, ...column.categories.map((value) => el("option", { value })));
    this.input = el("input", { type: "text", list: list.id, placeholder: "(missing)", autocomplete: "off" });
    this.element = field(column.name, this.input, `${plural(column.categories.length, "known value")}${missingHint(column)}`);
    this.element.append(list);
  }

  get value() {
    return this.input.value === "" ? null : this.input.value;
  }

  set value(value) {
    this.input.value = value ?? "";
  }
}

class DateField {
  constructor(column, example) {
    const moments = [example ?? column.earliest ?? "", column.format];
    const type = dateType(...moments);
    this.input = el("input", { type, step: type === "datetime-local" ? "1" : null, placeholder: type === "text" ? "(missing)" : null });
    const day = (text) => text.replace("T00:00:00", "").replace("T", " ");
    const seen = column.earliest && column.latest ? `${day(column.earliest)} to ${day(column.latest)} in training` : "a date";
    const written = type === "text" ? `, written as ${column.format}` : "";
    this.element = field(column.name, this.input, seen + written + missingHint(column));
  }

  get value() {
    if (this.input.validity.badInput) throw new BadField("A whole date was expected.", this.input);
    return this.input.value === "" ? null : this.input.value;
  }

  set value(value) {
    const written = { date: (text) => text.slice(0, 10), "datetime-local": (text) => text.replace(" ", "T") }[this.input.type];
    this.input.value = value === null ? "" : (written?.(value) ?? value);
  }
}

function dateType(example, format) {
  if (format !== "iso") return "text";
  if (/^\d{4}-\d\d-\d\d(T00:00:00)?$/.test(example)) return "date";
  return /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?$/.test(example) ? "datetime-local" : "text";
}

class TableForm {
  constructor(schema, onChange) {
    const example = schema.example ?? {};
    this.fields = new Map(schema.columns.map((column) => [column.name, tableField(column, example[column.name])]));
    for (const [name, each] of this.fields) each.value = example[name] ?? null;
    this.element = el("div", { class: "fields", input: onChange }, ...[...this.fields.values()].map((each) => each.element));
  }

  request() {
    return { rows: [Object.fromEntries([...this.fields].map(([name, each]) => [name, each.value]))] };
  }

  state() {
    return new Map([...this.fields].map(([name, each]) => [name, [each.constructor, typed(each)]]));
  }

  /** Take over what was typed into the form of another version, as far as it has the same fields. */
  restore(state) {
    for (const [name, each] of this.fields) {
      const [kind, value] = state.get?.(name) ?? [];
      if (kind === each.constructor) each.value = value;
    }
  }
}

function typed(each) {
  try {
    return each.value;
  } catch {
    return null;
  }
}

function tableField(column, example) {
  if (column.kind === "NUMBER") return new NumberField(column);
  if (column.kind === "DATE") return new DateField(column, example);
  return column.categories.length > FEW_CATEGORIES ? new TypedCategoryField(column) : new CategoryField(column);
}

class TextForm {
  constructor(column, onChange) {
    const counts = Number(column.bytes) ? plural(Number(column.bytes), "byte") : Number(column.length) ? `${column.length} words or tokens` : "";
    this.input = el("textarea", { rows: "5", input: onChange, spellcheck: "false" });
    this.element = field(column.name, this.input, counts ? `The first ${counts} count. An empty text is a missing one.` : "An empty text is a missing one.");
  }

  request() {
    return { rows: [this.input.value] };
  }

  state() {
    return { text: this.input.value };
  }

  restore(state) {
    this.input.value = state.text ?? "";
  }
}

class PictureForm {
  #file = null;

  constructor(column, onChange, onComplete) {
    this.onChange = onChange;
    this.onComplete = onComplete;
    this.preview = el("img", { alt: "", hidden: true, class: "preview" });
    this.about = el("p", { class: "hint", role: "status", text: `PNG, JPEG or WebP of any size; the server brings it to ${column.width} × ${column.height} pixels.` });
    this.input = el("input", { type: "file", accept: "image/png,image/jpeg,image/webp", id: freshId("picture"), change: () => this.#take(this.input.files[0]) });
    this.element = el(
      "div",
      {
        class: "drop",
        dragover: (event) => this.#over(event, true),
        dragleave: (event) => this.#over(event, false),
        drop: (event) => {
          this.#over(event, false);
          this.#take(event.dataTransfer.files[0]);
        },
      },
      this.preview,
      el("label", { for: this.input.id, text: "Drop a picture here, or choose a file" }),
      this.input,
      this.about,
    );
  }

  request() {
    if (!this.#file) throw new BadField("Choose a picture, or drop one on the form.", this.input);
    return { file: this.#file };
  }

  sample() {
    return { file: { name: "picture.png" } };
  }

  state() {
    return { file: this.#file };
  }

  restore(state) {
    if (state.file) this.#show(state.file);
  }

  #over(event, inside) {
    event.preventDefault();
    this.element.classList.toggle("over", inside);
  }

  #take(file) {
    if (!file) return;
    this.#show(file);
    this.onChange();
    this.onComplete();
  }

  #show(file) {
    this.#file = file;
    URL.revokeObjectURL(this.preview.src);
    this.preview.src = URL.createObjectURL(file);
    this.preview.alt = `The picture that is asked about: ${file.name}`;
    this.preview.hidden = false;
    this.about.textContent = `${file.name}, ${readable(Math.ceil(file.size / 1024))} KB`;
  }
}

/** Numbers as JSON, one area for each input of the network. */
class NumbersForm {
  constructor(schema, card, onChange) {
    this.batched = Number(schema.max_rows) > 0;
    this.inputs = schema.inputs.map((input) => {
      const shape = input.shape.map(Number).slice(this.batched ? 1 : 0);
      const area = el("textarea", { rows: "5", spellcheck: "false", class: "code" });
      const zeros = filled(shape.map((axis) => (axis < 0 ? 1 : axis)), input.dtype);
      area.value = zeros === null ? "" : JSON.stringify(zeros);
      return { name: input.name, area, shape, dtype: input.dtype };
    });
    const send = card?.input?.send ?? card?.send;
    this.element = el(
      "div",
      { class: "fields one", input: onChange },
      send ? el("p", { class: "hint", text: `To send: ${typeof send === "string" ? send : JSON.stringify(send)}` }) : null,
      ...this.inputs.map(({ name, area, shape, dtype }) =>
        field(name, area, `${this.batched ? "One row" : "The whole input"} as JSON: ${dtype} [${shape.map((axis) => (axis < 0 ? "any" : axis)).join(", ")}]`),
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

function parsed(name, area, dtype) {
  let value;
  try {
    value = JSON.parse(area.value);
  } catch (error) {
    throw new BadField(`${name}: this is not JSON (${error.message}). A row of numbers is written [0.5, 1, 2].`, area);
  }
  const numbers = [value].flat(Infinity);
  if (dtype.endsWith("INT64") && numbers.some((each) => Number.isInteger(each) && !Number.isSafeInteger(each))) {
    throw new BadField(`${name}: whole numbers above 2^53 are not exact in a browser; send them with curl.`, area);
  }
  return value;
}

function filled(shape, dtype) {
  if (shape.reduce((product, axis) => product * axis, 1) > MOST_ZEROS) return null;
  const [axis, ...rest] = shape;
  if (axis === undefined) return dtype === "BYTES" ? "" : dtype === "BOOL" ? false : 0;
  return Array.from({ length: axis }, () => filled(rest, dtype));
}

/** A digit is drawn, or its pixels are typed. */
class DigitForm {
  constructor(schema, size, card, onChange, onComplete) {
    const [input] = schema.inputs;
    this.size = size;
    this.shape = input.shape.map(Number).slice(1);
    this.numbers = new NumbersForm(schema, card, onChange);
    [{ area: this.area }] = this.numbers.inputs;
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
    if (this.drawing.empty && sent.rows[0].flat(Infinity).every((value) => value === 0)) {
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
    const inked = values.map((value) => Math.round(value * this.full * 100) / 100).map(this.full > 1 ? Math.round : (value) => value);
    this.area.value = JSON.stringify(shaped(inked, this.shape));
  }

  #read() {
    try {
      this.drawing.show(JSON.parse(this.area.value).flat(Infinity).map((value) => value / this.full));
    } catch {
      // Half-typed JSON; asking about it says so.
    }
  }
}

/** The value of full ink: the last number of what the card says to send, such as "ink from 0 (none) to 16 (full)". */
function fullInk(card, dtype) {
  const send = card?.input?.send ?? "";
  const range = /\b0\b[^0-9]*?\bto\b\s*([0-9.]+)/.exec(send);
  if (range) return Number(range[1]);
  return dtype === "UINT8" ? 255 : 1;
}

function shaped(values, shape) {
  if (shape.length <= 1) return values;
  const size = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, at) => shaped(values.slice(at * size, (at + 1) * size), shape.slice(1)));
}
