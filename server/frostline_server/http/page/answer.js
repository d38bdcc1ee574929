/** An answer in words and bars. */

import { bars } from "./chart.js";
import { el, percent, plural, readable } from "./dom.js";
import { written } from "./strict.js";

const MOST_BARS = 10;
const MOST_CHARACTERS = 4000;
const MOST_PLACES = 250_000;

const MEANINGS = {
  missing: "the model answers without it",
  unknown: "training has not seen this value",
  outside: "lower or higher than all that training saw",
};
const MEANINGS_OF_TEXTS = {
  missing: "the model answers without a text",
  unknown: "the model knows none of its words",
  outside: "longer than the model reads; the rest was cut off",
};

/**
 * The answer to one row.
 * @param {Object} answer of the server
 * @param {number} tookMs milliseconds that this page waited for it
 * @param {Object} schema of the model
 */
export function answerOf(answer, tookMs, schema) {
  const { predictions, version } = answer;
  const [prediction] = predictions;
  const took = readable(Math.round(tookMs * 10) / 10);
  // A network without a batch axis may answer more than there are rows.
  const whole = predictions.length === 1;
  return el(
    "article",
    { class: "answer" },
    el("p", { class: "hint", text: `Version ${version} answered in ${took} ms.` }),
    ...(whole
      ? [headline(prediction), ...details(prediction, schema.labels), ...notes(prediction, schema)]
      : [json(predictions)]),
  );
}

/** What training had to say of the row's cells. */
function notes(prediction, schema) {
  const meanings = schema.columns[0]?.kind === "TEXT" ? MEANINGS_OF_TEXTS : MEANINGS;
  return Object.entries(meanings)
    .filter(([name]) => prediction[name]?.length)
    .map(([name, meaning]) => {
      const word = name[0].toUpperCase() + name.slice(1);
      const told = `${prediction[name].join(", ")} (${meaning}).`;
      return el("p", { class: "note" }, el("strong", { text: `${word}: ` }), told);
    });
}

/** The short form of an answer, to compare two of them; null where it is too long for that. */
export function gist({ predictions }) {
  return predictions.length === 1 ? brief(predictions[0]) : null;
}

function brief(prediction) {
  if (prediction.values)
    return Object.entries(prediction.values)
      .map(([name, value]) => `${name} ${String(value)}`)
      .join(", ");
  if (prediction.labels) return prediction.labels.join(", ") || "no label";
  if (prediction.class !== undefined) return decided(prediction);
  return null;
}

function decided({ label, class: number }) {
  return label || (number === null || number === undefined ? "undecided" : `class ${number}`);
}

function headline(prediction) {
  const words = prediction.values ? null : brief(prediction);
  return words === null ? null : el("p", { class: "headline", text: words });
}

function details(prediction, names) {
  if (prediction.probabilities) return probabilities(prediction);
  if (prediction.probability !== undefined && prediction.probability !== null) {
    // Of yes and no the server says the probability of yes.
    const [no, yes] = names.length === 2 ? names : ["no", "yes"];
    const both = [
      [yes, prediction.probability],
      [no, 1 - prediction.probability],
    ];
    return [bars(both, percent, (name) => name === prediction.label)];
  }
  if (prediction.values) {
    return [
      el(
        "dl",
        { class: "values" },
        ...Object.entries(prediction.values).flatMap(([name, value]) => [
          el("dt", { text: name }),
          el("dd", { text: String(value) }),
        ]),
      ),
    ];
  }
  if (prediction.vector) {
    const more = prediction.vector.length > 8 ? ", …" : "";
    const start = prediction.vector.slice(0, 8).map(readable).join(", ");
    return [
      el("p", {
        text: `A vector of ${plural(prediction.vector.length, "number")}: ${start}${more}`,
      }),
    ];
  }
  if (prediction.map) return map(prediction.map, names);
  return [json(prediction.outputs ?? prediction)];
}

function probabilities(prediction) {
  const ranked = Array.isArray(prediction.probabilities)
    ? prediction.probabilities.map((each) => [decided(each), each.probability])
    : Object.entries(prediction.probabilities).sort(([, one], [, other]) => other - one);
  const chosen = prediction.labels
    ? (name) => prediction.labels.includes(name)
    : (name) => name === decided(prediction);
  const rest = ranked.length - MOST_BARS;
  return [
    bars(ranked.slice(0, MOST_BARS), percent, chosen),
    rest > 0 ? el("p", { class: "hint", text: `and ${rest} less probable ones` }) : null,
  ];
}

/** A class at each place: a picture of the indices, and how many places each class has. */
function map(rows, names) {
  const width = rows[0]?.length;
  if (
    !width ||
    !rows.every((row) => Array.isArray(row) && row.every(Number.isInteger)) ||
    width * rows.length > MOST_PLACES
  )
    return [json(rows)];
  const canvas = el("canvas", {
    width,
    height: rows.length,
    class: "map",
    role: "img",
    "aria-label": "The class at each place",
  });
  const context = canvas.getContext("2d");
  const counts = new Map();
  rows.forEach((row, y) =>
    row.forEach((index, x) => {
      counts.set(index, (counts.get(index) ?? 0) + 1);
      context.fillStyle = hue(index);
      context.fillRect(x, y, 1, 1);
    }),
  );
  const shares = [...counts].sort(([, one], [, other]) => other - one).slice(0, MOST_BARS);
  const list = bars(
    shares.map(([index, count]) => [names[index] ?? `class ${index}`, count / (width * rows.length)]),
    percent,
  );
  // The list is the picture's legend.
  shares.forEach(([index], at) => {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.setProperty("background", hue(index));
    list.children[at].querySelector(".bar-name").prepend(swatch);
  });
  const hidden = counts.size - shares.length;
  return [
    canvas,
    el("p", { class: "hint", text: `Share of the ${plural(width * rows.length, "place")} of each class` }),
    list,
    hidden > 0 ? el("p", { class: "hint", text: `and ${hidden} more` }) : null,
  ];
}

function hue(index) {
  return index === 0 ? "#d5dde5" : `hsl(${(index * 137) % 360} 60% 45%)`;
}

function json(value) {
  const text = written(value);
  const cut = text.length > MOST_CHARACTERS;
  return el("pre", {
    tabindex: "0",
    text: cut ? `${text.slice(0, MOST_CHARACTERS)} … (${plural(text.length, "character")})` : text,
  });
}
