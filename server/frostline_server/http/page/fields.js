/** The fields of a form, one for each column of a table. */

import { el, freshId, limit, percent, plural } from "./dom.js";
import { numberOf } from "./strict.js";

const FEW_CATEGORIES = 12;
const HALF = /^\s*[+-]?(\d+(\.\d*)?([eE][+-]?\d{0,2})?)?\s*$/;

/** What was typed cannot be sent; `field` is the element to correct. */
export class BadField extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** One field with its label and hint. */
export function field(label, input, hint) {
  input.id ||= freshId("field");
  const note = hint ? el("p", { class: "hint", id: `${input.id}-hint`, text: hint }) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return el("div", { class: "field" }, el("label", { for: input.id, text: label, title: label }), input, note);
}

function missingHint(column) {
  return column.share_missing > 0 ? `, ${percent(column.share_missing)} missing` : "";
}

/** A field of a number; an <input type=number> would change with the wheel, and take what it cannot read for "". */
export function numberInput(options) {
  return el("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", ...options });
}

/**
 * Says beside a field of a number what is wrong with it, until it is right: while it is typed, and not when it is left,
 * as what then moves the button below takes the click from it. What is only half-typed is wrong when it is sent.
 */
export function faultOf(input) {
  const fault = el("p", { class: "field-error", role: "alert", id: freshId("fault") });
  function check(event) {
    try {
      numberOf(input.value);
      fault.textContent = "";
    } catch (error) {
      fault.textContent = event.type === "input" && HALF.test(input.value) ? "" : error.message;
    }
    input.setAttribute("aria-invalid", String(fault.textContent !== ""));
    if (fault.textContent) input.setAttribute("aria-errormessage", fault.id);
    else input.removeAttribute("aria-errormessage");
  }
  for (const type of ["input", "invalid"]) input.addEventListener(type, check);
  return fault;
}

class NumberField {
  constructor(column) {
    this.column = column;
    this.input = numberInput({ placeholder: "(missing)" });
    const seen = Number.isFinite(column.lowest) && Number.isFinite(column.highest);
    const hint = seen ? `${limit(column.lowest)} to ${limit(column.highest)} in training` : "a number";
    this.element = field(column.name, this.input, hint + missingHint(column));
    this.fault = faultOf(this.input);
    this.element.append(this.fault);
  }

  get value() {
    try {
      return numberOf(this.input.value);
    } catch (error) {
      throw new BadField(`${this.column.name}: ${error.message}`, this.input);
    }
  }

  get typed() {
    return this.input.value;
  }

  set typed(text) {
    this.input.value = text;
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

/** The text that a field of one line has for another: without its line breaks, which a browser leaves out. */
function oneLine(text) {
  return text.replace(/[\r\n]/g, "");
}

/** What a field of one line means: the text it was given, or a known one, whose line breaks the browser left out. */
function meant(typed, given, known = []) {
  return [given ?? "", ...known].find((text) => oneLine(text) === typed) ?? typed;
}

class CategoryField {
  constructor(column) {
    this.categories = column.categories;
    this.other = el("input", {
      type: "text",
      placeholder: "another value",
      "aria-label": `${column.name}, another value`,
      hidden: true,
    });
    this.input = el(
      "select",
      { change: () => this.#showOther() },
      el("option", { value: "missing", text: "(missing)" }),
      ...column.categories.map((text, at) => el("option", { value: String(at), text: text === "" ? "(empty)" : text })),
      el("option", { value: "other", text: "another value …" }),
    );
    this.element = field(
      column.name,
      this.input,
      `${plural(column.categories.length, "known value")}${missingHint(column)}`,
    );
    this.input.after(this.other);
  }

  #showOther() {
    this.other.hidden = this.input.value !== "other";
  }

  get value() {
    const { value } = this.input;
    if (value === "missing") return null;
    return value === "other" ? meant(this.other.value, this.given) : this.categories[Number(value)];
  }

  set value(value) {
    const at = this.categories.indexOf(value);
    this.input.value = value === null ? "missing" : at >= 0 ? String(at) : "other";
    this.given = value;
    if (this.input.value === "other") this.other.value = value;
    this.#showOther();
  }
}

class TypedCategoryField {
  constructor(column) {
    this.known = column.categories.filter(
      (text) => oneLine(text) !== text && !column.categories.includes(oneLine(text)),
    );
    const list = el(
      "datalist",
      { id: freshId("categories") },
      ...column.categories.map((value) => el("option", { value })),
    );
    this.input = el("input", { type: "text", list: list.id, placeholder: "(missing)", autocomplete: "off" });
    this.element = field(
      column.name,
      this.input,
      `${plural(column.categories.length, "known value")}${missingHint(column)}`,
    );
    this.element.append(list);
  }

  get value() {
    return this.input.value === "" ? null : meant(this.input.value, this.given, this.known);
  }

  set value(value) {
    this.given = value;
    this.input.value = value ?? "";
  }
}

class DateField {
  constructor(column, example) {
    this.format = column.format;
    this.moments = [example, column.earliest, column.latest];
    this.input = el("input");
    this.#take();
    const day = (text) => text.replace("T00:00:00", "").replace("T", " ");
    const seen =
      column.earliest && column.latest ? `${day(column.earliest)} to ${day(column.latest)} in training` : "a date";
    const written = this.input.type === "text" ? `, written as ${column.format}` : "";
    this.element = field(column.name, this.input, seen + written + missingHint(column));
  }

  get value() {
    if (this.input.validity.badInput) throw new BadField("A whole date was expected.", this.input);
    return this.input.value === "" ? null : this.input.value;
  }

  set value(value) {
    this.#take(value);
    const written = {
      date: (text) => text.slice(0, 10),
      "datetime-local": (text) => (DAY.test(text) ? `${text.slice(0, 10)}T00:00` : text.replace(" ", "T")),
    }[this.input.type];
    this.input.value = value === null ? "" : (written?.(value) ?? value);
  }

  /** Become the kind that takes this moment too: one typed for another version may have a time where these have none. */
  #take(moment) {
    this.input.type = dateType([...this.moments, moment].filter(Boolean), this.format);
    this.input.step = this.input.type === "datetime-local" ? "1" : "";
    this.input.placeholder = this.input.type === "text" ? "(missing)" : "";
  }
}

const DAY = /^\d{4}-\d\d-\d\d(T00:00:00)?$/;
const MOMENT = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?$/;

/** The kind of a field that takes all of these moments. */
function dateType(moments, format) {
  if (format !== "iso" || !moments.length) return "text";
  if (moments.every((moment) => DAY.test(moment))) return "date";
  return moments.every((moment) => MOMENT.test(moment)) ? "datetime-local" : "text";
}

/** The field of a column; its `value` is what is sent, null where it is missing. */
export function columnField(column, example) {
  if (column.kind === "NUMBER") return new NumberField(column);
  if (column.kind === "DATE") return new DateField(column, example);
  return column.categories.length > FEW_CATEGORIES ? new TypedCategoryField(column) : new CategoryField(column);
}
