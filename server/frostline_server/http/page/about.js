/** What the card of a version says: its facts and its pictures. */

import { modelPath, picture } from "./api.js";
import { el, percent, readable } from "./dom.js";

const SHARES = ["accuracy", "macro_f1", "micro_f1", "exact_match", "mean_iou", "pixel_accuracy", "recall_at_1"];

const PICTURES = {
  "learning-curves": "Learning curves: the loss and the score by epoch, of training and validation",
  confusion: "Confusion matrix: how many held-out rows of each class were answered as which class",
  network: "Diagram of the network, from input to output",
  mistakes: "The held-out rows whose wrong answers were the most confident",
  calibration: "Calibration: how often the answers are right, by their probability",
  "calibration-classes": "Calibration of each class: how often it is right, by its probability",
  "precision-recall": "Precision by recall of each class, on the held-out rows",
  labels: "Precision, recall and F1 of each label",
  embedding: "The vectors of the held-out rows in the plane in which they differ most, coloured by class",
  predictions: "Predicted values by true values, of the held-out rows",
};

/** The facts of a card as pairs of a name and words. */
export function facts(card) {
  // Null in a card means that it is not known.
  const [scores, data, input] = [card.scores ?? {}, card.data ?? {}, card.input ?? {}];
  const measured = card.export?.max_abs_difference;
  const tested = Object.entries(scores)
    .filter(
      ([name, value]) =>
        name.startsWith("test_") && !["rows", "loss"].includes(measure(name)) && Number.isFinite(value),
    )
    .map(([name, value]) => [name.replaceAll("_", " "), score(name, value, scores)]);
  const rows =
    data.rows &&
    Object.entries(data.rows)
      .map(([part, count]) => `${readable(count)} ${part}`)
      .join(", ");
  const network = card.recipe?.network;
  const frameworks = Object.entries(card.frameworks ?? {})
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
  const all = [
    ["task", card.task],
    ["labels", card.labels?.length ? listed(card.labels) : null],
    ...Object.entries(data.targets ?? {}).map(([name, classes]) => [
      `target ${name}`,
      classes ? listed(classes) : "a number",
    ]),
    ...tested,
    ["parameters", Number.isFinite(card.parameters) ? readable(card.parameters) : null],
    [
      "network",
      network &&
        Object.entries(network)
          .map(([name, value]) => (name === "family" ? value : `${name} ${value}`))
          .join(", "),
    ],
    ["data", data.name],
    ["source", data.source],
    ["rows", rows],
    ["to send", typeof input.send === "string" && !card.rows ? input.send : null],
    ["calibration error", Number.isFinite(scores.ece) ? percent(scores.ece) : null],
    [
      "variant of",
      card.variant?.of ? `${card.variant.of.name} version ${card.variant.of.version}, ${card.variant.precision}` : null,
    ],
    [
      "largest difference",
      Number.isFinite(measured) ? `${readable(measured)} between ONNX Runtime and PyTorch, on the held-out rows` : null,
    ],
    ["created", card.created ? card.created.replace("T", " ").replace("+00:00", " UTC") : null],
    ["made with", frameworks],
    ["sha256", card.sha256],
  ];
  return all.filter(([, value]) => value);
}

// Of several targets, the name of each and a dot come before what is measured.
function measure(name) {
  return name.replace("test_", "").replace(/^.*\./, "");
}

function score(name, value, { interval_95: interval, test_rows: rows }) {
  const share = SHARES.includes(measure(name));
  const shown = share ? percent(value) : readable(value);
  if (!["test_accuracy", "test_exact_match", "test_recall_at_1"].includes(name) || !Array.isArray(interval)) return shown;
  const of = rows ? `, of ${readable(rows)} rows never seen in training` : "";
  return `${shown} (95 % interval ${interval.map(percent).join(" to ")}${of})`;
}

function listed(labels) {
  const shown = labels.slice(0, 12).join(", ");
  return labels.length > 12 ? `${shown} and ${labels.length - 12} more` : shown;
}

/** Forget the pictures of a section that is no longer shown. */
export function release(section) {
  for (const image of section.querySelectorAll(".gallery img[src]")) URL.revokeObjectURL(image.src);
}

// As an image, and not as a document of its own: scripts in an SVG do not run in an image.
function enlarged({ src, alt }) {
  const dialog = el("dialog", { class: "picture", "aria-label": alt, close: () => dialog.remove() });
  dialog.append(
    el("img", { src, alt }),
    el(
      "p",
      { class: "actions" },
      el("button", { type: "button", text: "Close", autofocus: true, click: () => dialog.close() }),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** The section about a version; its pictures are fetched when it comes into view. */
export function about(model, version, card) {
  const gallery = el("div", { class: "gallery" });
  const known = Object.keys(PICTURES);
  const place = (name) => (known.indexOf(stem(name)) + known.length + 1) % (known.length + 1);
  const names = (card?.pictures ?? []).toSorted((one, other) => place(one) - place(other));
  for (const name of names) gallery.append(frame(model, version, name));
  return el(
    "section",
    { class: "about", "aria-labelledby": "about-title" },
    el("h2", { id: "about-title", text: `About version ${version}` }),
    card && facts(card).length
      ? el(
          "dl",
          { class: "facts" },
          ...facts(card).flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]),
        )
      : el("p", { class: "hint", text: "This version has no card." }),
    names.length ? gallery : null,
  );
}

function stem(name) {
  return name.replace(/\.\w+$/, "");
}

function frame(model, version, name) {
  const alt = PICTURES[stem(name)] ?? `Picture ${name} of version ${version}`;
  const image = el("img", { alt });
  const larger = el(
    "button",
    {
      type: "button",
      class: "frame",
      "aria-label": `${alt}; show it larger`,
      disabled: true,
      click: () => enlarged(image),
    },
    image,
  );
  const note = el("p", { class: "hint" });
  const figure = el("figure", {}, larger, note, el("figcaption", { text: alt }));
  const seen = new IntersectionObserver(
    async ([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      try {
        image.src = await picture(modelPath(model, version, "pictures", name));
        larger.disabled = false;
      } catch (error) {
        note.textContent = error.message;
      }
    },
    { rootMargin: "300px" },
  );
  seen.observe(figure);
  return figure;
}
