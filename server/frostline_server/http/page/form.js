/** The form of a model, made from its schema: a table's fields, a text, a picture, a drawing, or numbers as JSON. */

import { el, freshId, plural, readable } from "./dom.js";
import { BadField, columnField, field } from "./fields.js";
import { DigitForm, drawnSize, NumbersForm } from "./numbers.js";

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

class TableForm {
  constructor(schema, onChange) {
    const example = schema.example ?? {};
    this.fields = new Map(schema.columns.map((column) => [column.name, columnField(column, example[column.name])]));
    for (const [name, each] of this.fields) each.value = example[name] ?? null;
    this.element = el(
      "div",
      { class: "fields", input: onChange },
      ...[...this.fields.values()].map((each) => each.element),
    );
  }

  request() {
    return { rows: [Object.fromEntries([...this.fields].map(([name, each]) => [name, each.value]))] };
  }

  state() {
    return new Map([...this.fields].map(([name, each]) => [name, [each.constructor, state(each)]]));
  }

  /** Take over what was typed into the form of another version, as far as it has the same fields. */
  restore(state) {
    for (const [name, each] of this.fields) {
      const [kind, value] = state.get?.(name) ?? [];
      if (kind !== each.constructor) continue;
      if ("typed" in each) each.typed = value;
      else each.value = value;
    }
  }
}

function state(each) {
  try {
    return "typed" in each ? each.typed : each.value;
  } catch {
    return null;
  }
}

class TextForm {
  constructor(column, onChange) {
    const counts = Number(column.bytes)
      ? plural(Number(column.bytes), "byte")
      : Number(column.length)
        ? `${column.length} words or tokens`
        : "";
    this.input = el("textarea", { rows: "5", input: onChange, spellcheck: "false" });
    this.element = field(
      column.name,
      this.input,
      counts ? `The first ${counts} count. An empty text is a missing one.` : "An empty text is a missing one.",
    );
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
    this.about = el("p", {
      class: "hint",
      role: "status",
      text: `PNG, JPEG or WebP of any size; the server brings it to ${column.width} × ${column.height} pixels.`,
    });
    this.input = el("input", {
      type: "file",
      accept: "image/png,image/jpeg,image/webp",
      id: freshId("picture"),
      change: () => this.#take(this.input.files[0]),
    });
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
