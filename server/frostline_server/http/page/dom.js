/** Elements from JavaScript. What the server sends only ever becomes text or an attribute, never markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag such as "p"
 * @param {Object} options attributes; `text` is its text, functions are listeners; null and false are left out
 * @param {...(Node|string|null)} children
 */
export function el(tag, options = {}, ...children) {
  return build(document.createElement(tag), options, children);
}

/** The same of SVG. */
export function svg(tag, options = {}, ...children) {
  return build(document.createElementNS(SVG, tag), options, children);
}

function build(node, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

let count = 0;

/** An id that no other element of the page has. */
export function freshId(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/** A number as people read it: few digits, and all of a whole number. */
export function readable(value) {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 4 });
}

/**
 * A limit of a column as it may be typed: the shortest decimals of its single precision. One that was rounded would itself
 * be outside of what training saw.
 */
export function limit(value) {
  for (let digits = 1; digits < 9; digits += 1) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return String(short);
  }
  return String(Number(value.toPrecision(9)));
}

/** A share as a percentage; what is almost none or almost all is not told as 0 or 100. */
export function percent(share) {
  if (!Number.isFinite(share)) return "not a number";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return share < 1 && share > 0.999 ? "> 99.9 %" : `${(share * 100).toFixed(1)} %`;
}

/** Seconds as milliseconds. */
export function milliseconds(seconds) {
  return `${Number((seconds * 1000).toPrecision(3))} ms`;
}

/** One of a word or several: plural(2, "model") is "2 models". */
export function plural(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

/** Call `step` every `period` milliseconds while the page is visible, one call at a time; returns what stops it. */
export function whileVisible(period, step) {
  let timer = 0;
  let stopped = false;
  let running = false;
  async function turn() {
    if (stopped || running || document.hidden) return;
    running = true;
    try {
      await step();
    } finally {
      running = false;
    }
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(turn, period);
  }
  document.addEventListener("visibilitychange", turn);
  turn();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", turn);
  };
}

/** Put `text` on the clipboard; browsers have the modern way only on secure addresses. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = el("textarea", { class: "visually-hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
