/** Numbers as JSON writes them; what a browser would read as another number is refused with a sentence. */

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** The number that a text is, or null of an empty one. Spaces around it and a leading plus are allowed. */
export function numberOf(text) {
  const written = text.trim().replace(/^\+/, "");
  if (!text.trim()) return null;
  if (!NUMBER.test(written)) throw new SyntaxError(correction(text.trim()));
  if (!Number.isFinite(Number(written))) throw new SyntaxError(`${text.trim()} is too large for a number.`);
  return Number(written);
}

function correction(text) {
  if (/^[+-]?\d+,\d+$/.test(text))
    return `${text} has a decimal comma: write ${text.replace(",", ".").replace("+", "")}.`;
  if (/^[+-]?\d[\d.,\s'_]*$/.test(text))
    return `${text} is no number here: write the digits without separators, and a decimal point, such as 1234.56.`;
  if (/^[+-]?\.\d+$/.test(text)) return `${text} is no number here: write ${text.replace("+", "").replace(".", "0.")}.`;
  if (/^[+-]?0x/i.test(text)) return `${text} is no number here: write it in decimal, such as 16.`;
  return `${text} is no number: write one such as 12, -0.5 or 1e-3, or leave it empty where it is missing.`;
}

/** The value that a text of JSON is; with `whole`, its whole numbers must be exact in a browser. */
export function jsonOf(text, whole) {
  const value = JSON.parse(text);
  for (const [token] of text.matchAll(TOKENS)) {
    if (token.startsWith('"')) continue;
    if (!Number.isFinite(Number(token))) throw new RangeError(`${token} is too large for a number.`);
    if (whole && Number.isInteger(Number(token)) && !Number.isSafeInteger(Number(token)))
      throw new RangeError("whole numbers above 2^53 are not exact in a browser; send them with curl.");
  }
  return value;
}

function rounded(token) {
  return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token));
}

/** The value of an answer's JSON. Whole numbers that a browser would round are BigInt, and texts in browsers before 2025. */
export function exactly(text) {
  // To look at each number takes long, and only those of so many digits are rounded.
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  if (!JSON.rawJSON) return JSON.parse(text.replace(TOKENS, (token) => (rounded(token) ? `"${token}"` : token)));
  return JSON.parse(text, (_, value, { source }) =>
    typeof value === "number" && rounded(source) ? BigInt(source) : value,
  );
}

/** The JSON of such a value. */
export function written(value) {
  return JSON.stringify(value, (_, each) => (typeof each === "bigint" ? JSON.rawJSON(String(each)) : each));
}
