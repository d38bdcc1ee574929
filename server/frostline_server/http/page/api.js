/** The server's HTTP API: addresses, credentials and errors. */

const TOKEN = "frostline.token";
const PATIENCE_MS = 5000;

/** The event of the window when the server refuses the credentials, or what they may do. */
export const REFUSED = "frostline-refused";

/** The event of the window when the server does not answer. */
export const SILENT = "frostline-silent";

/** A refusal of the server, or no answer at all. The message is the server's own sentence. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The token that was typed in; empty for none. Only this tab has it. */
export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

/** Whether a header can carry this token: visible ASCII, and no spaces. */
export function sendable(value) {
  return /^[\x21-\x7e]*$/.test(value);
}

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

let unanswered = null; // the time of the first request since the last answer

/** For how many whole seconds the server has left requests without an answer. */
export function silence() {
  return unanswered === null ? 0 : Math.round((performance.now() - unanswered) / 1000);
}

let grpcPort = "8001";

/** Note the address of the server's gRPC port, of which this machine may see another host. */
export function setGrpc(address) {
  grpcPort = address.split(":").pop();
}

/** The address of gRPC for a program of whoever looks at the page. */
export function grpcAddress() {
  return `${location.hostname || "127.0.0.1"}:${grpcPort}`;
}

/** The path of something of a model; `version` is a number, a label or empty. */
export function modelPath(model, version, ...rest) {
  const parts = ["v2", "models", model, ...(version ? ["versions", version] : []), ...rest];
  return parts.map(encodeURIComponent).join("/");
}

/** The whole address of a path, for commands to copy. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** What the server says at a path; a server that does not answer in five seconds counts as silent. */
export async function get(path) {
  return (await send(path, { signal: AbortSignal.timeout(PATIENCE_MS) })).json();
}

/** A picture as an address for <img>: an image element sends no credentials, so it is fetched. */
export async function picture(path) {
  const response = await send(path, {});
  return URL.createObjectURL(await response.blob());
}

/** What the server says of all its models; as patient as `get`. */
export function index() {
  return post("v2/repository/index", {}, AbortSignal.timeout(PATIENCE_MS));
}

/**
 * POST JSON, or a file as it is, until `signal` aborts it; `read` reads the answer, which is null without a body. What a
 * file is, its content says: a browser goes by its name.
 */
export async function post(path, body, signal, read = JSON.parse) {
  const file = body instanceof Blob;
  const headers = { "Content-Type": file ? "application/octet-stream" : "application/json" };
  const response = await send(path, { method: "POST", headers, body: file ? body : JSON.stringify(body), signal });
  const text = await response.text();
  return text ? read(text) : null;
}

async function send(path, options) {
  const response = await reach(path, options);
  if (response.ok) return response;
  if (response.status === 401 || response.status === 403)
    window.dispatchEvent(new CustomEvent(REFUSED, { detail: path }));
  throw new ApiError(response.status, await reason(response));
}

async function reach(path, options) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  // No other site's page can set this header, so the server knows that this one asks.
  if (options.method === "POST") headers["X-Frostline"] = "page";
  const asked = performance.now();
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    unanswered = null;
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    unanswered ??= asked;
    window.dispatchEvent(new Event(SILENT));
    if (error.name === "TimeoutError") throw new ApiError(0, `No answer for ${PATIENCE_MS / 1000} s.`);
    throw new ApiError(0, "The server does not answer. Is it still running?");
  }
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `The server answered with status ${response.status}.`;
  }
}
