/** The table of a model's versions: states, traffic, devices and proofs. */

import { el, readable } from "./dom.js";
import { badge } from "./list.js";

export class VersionsTable {
  #versions = [];
  #live = new Map();
  #traffic = null;

  /**
   * @param {?function(number, Object, Element): void} onPromote is given a version, the traffic and this table; null
   *   for who may not
   */
  constructor(onPromote) {
    this.onPromote = onPromote;
    this.body = el("tbody");
    const columns = ["version", "state", "traffic", "device", "proof", "reason", ...(onPromote ? ["change"] : [])];
    const head = el("tr", {}, ...columns.map((text) => el("th", { scope: "col", text })));
    this.scroll = el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of versions" },
      el("table", {}, el("thead", {}, head), this.body),
    );
    this.problems = el("p", { class: "reason", role: "status" });
    this.element = el(
      "section",
      { "aria-labelledby": "versions-title" },
      el("h2", { id: "versions-title", text: "Versions" }),
      this.problems,
      this.scroll,
    );
  }

  /** Show these versions. */
  update(versions) {
    this.#versions = versions;
    this.#fill();
  }

  /** Show what the server says of them beside its counters. */
  live(answer) {
    this.#live = new Map(answer.versions.map((each) => [each.version, each]));
    this.#traffic = answer.traffic;
    const problems = (answer.traffic.problems ?? []).join("; ");
    if (this.problems.textContent !== problems) this.problems.textContent = problems;
    this.#fill();
  }

  #fill() {
    // The button of a row keeps the focus when the row is made again.
    const focus = this.body.contains(document.activeElement) ? document.activeElement.dataset.version : null;
    this.body.replaceChildren(...this.#versions.map((each) => this.#row(each)));
    if (focus) [...this.body.querySelectorAll("button")].find((button) => button.dataset.version === focus)?.focus();
  }

  #row({ version, state, reason }) {
    const live = this.#live.get(version);
    return el(
      "tr",
      {},
      el("th", { scope: "row", text: version || "–" }),
      el("td", {}, badge(state)),
      el("td", { text: this.#share(version) }),
      el("td", { text: device(live) }),
      el("td", { text: proof(live) }),
      el("td", { class: reason ? "reason" : null, text: reason || "–" }),
      this.onPromote ? el("td", {}, version && state !== "FAILED" ? this.#button(version) : null) : null,
    );
  }

  #button(version) {
    return el("button", {
      type: "button",
      class: "quiet",
      "data-version": version,
      text: "Promote …",
      "aria-label": `Promote version ${version}`,
      click: () => this.onPromote(Number(version), this.#traffic, this.scroll),
    });
  }

  #share(version) {
    if (!this.#traffic) return "–";
    const { labels = {}, percent = {}, shadow } = this.#traffic;
    const parts = Object.keys(labels).filter((label) => String(labels[label]) === version);
    if (percent[version] !== undefined) parts.push(`${readable(percent[version])}\u00a0%`);
    if (String(shadow) === version) parts.push("shadow");
    return parts.join(", ") || "–";
  }
}

function device(live) {
  if (!live?.device) return "–";
  const provider = (live.provider ?? "").replace("ExecutionProvider", "");
  return !provider || live.device.startsWith(provider.toLowerCase()) ? live.device : `${live.device} (${provider})`;
}

function proof(live) {
  if (!live || live.state !== "READY") return "–";
  if (live.fault) return `broken: ${live.fault}`;
  return live.verified ? "verified on its golden sample" : "has no golden sample";
}
