/** The commands and programs that ask the same as the form. */

import { address, grpcAddress, modelPath, token } from "./api.js";

/** The body of a request of the form. */
export function bodyOf(request) {
  return request.inputs ? { inputs: request.inputs } : { rows: request.rows };
}

/** A command line of curl. */
export function curl(model, version, request) {
  const url = shell(address(modelPath(model, version, "predict")));
  const credentials = token() ? ' -H "Authorization: Bearer $FROSTLINE_TOKEN"' : "";
  if (request.file)
    return `curl${credentials} -F ${shell(`file=@"${request.file.name.replace(/["\\]/g, "\\$&")}"`)} \\\n  ${url}`;
  const body = shell(JSON.stringify(bodyOf(request)));
  return `curl${credentials} -H 'Content-Type: application/json' \\\n  -d ${body} \\\n  ${url}`;
}

/** A program of Frostline's Python client. */
export function python(model, version, schema, request) {
  const chosen = version ? `, version=${literal(version)}` : "";
  const encrypted = location.protocol === "https:";
  const credentials = (encrypted ? ", tls=True" : "") + (token() ? ', token=os.environ["FROSTLINE_TOKEN"]' : "");
  const numbers = !schema.columns.length && schema.inputs.every((input) => input.dtype !== "BYTES");
  const rows = request.file ? `[${literal(request.file.name)}]` : literal(request.inputs ?? request.rows, numbers);
  return [
    ...(token() ? ["import os", ""] : []),
    "import frostline",
    "",
    ...(encrypted ? ['# With an authority of your own: tls="ca.pem", the file of its certificate.'] : []),
    `with frostline.connect(${literal(grpcAddress())}${credentials}) as client:`,
    `    prediction = client.predict(${literal(model)}, ${rows}${chosen})`,
    `    print(prediction.version, ${READINGS[schema.task] ?? "prediction.outputs"})`,
  ].join("\n");
}

const READINGS = {
  "single-label": "prediction.labels, prediction.probabilities",
  binary: "prediction.labels, prediction.probabilities",
  "multi-label": "prediction.labels, prediction.probabilities",
  regression: "prediction.names, prediction.values",
  embedding: "prediction.vector",
  dense: "prediction.map, prediction.names",
};

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

const NOT_FINITE = { NaN: "nan", Infinity: "inf", "-Infinity": "-inf" };

/**
 * A value as Python writes it. JSON's strings are Python's, apart from characters that a terminal would not show. Among
 * `numbers`, the words are numbers for which JSON has none.
 */
export function literal(value, numbers = false) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map((each) => literal(each, numbers)).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, each]) => `${literal(key)}: ${literal(each, numbers)}`)
      .join(", ")}}`;
  if (numbers && Object.hasOwn(NOT_FINITE, value)) return `float("${NOT_FINITE[value]}")`;
  return JSON.stringify(value);
}
