/** The selected model: try it, live, its versions, and what its card says. */

import { about, release } from "./about.js";
import { get, modelPath } from "./api.js";
import { Controls } from "./control.js";
import { el } from "./dom.js";
import { LivePanel } from "./live.js";
import { TryIt } from "./tryit.js";
import { VersionsTable } from "./versions.js";

export class ModelView {
  #told = "";
  #liveTold = "";
  #key = null;
  #labels = null;

  /**
   * @param {string} name the model
   * @param {string} version that the address names; empty for the one that clients get
   * @param {boolean} control whether the caller may change anything
   * @param {function(): void} onChanged something on the server was changed
   */
  constructor(name, version, control, onChanged) {
    Object.assign(this, { name, version, control, onChanged });
    this.versions = [];
    this.subtitle = el("p", { class: "subtitle" });
    this.chooser = el("select", { id: "version", change: () => this.#choose() });
    this.trial = el("div", {});
    this.about = el("div", {});
    this.controls = control ? new Controls(name, onChanged) : null;
    this.table = new VersionsTable(this.controls && ((each) => this.controls.promote(each)));
    this.panel = new LivePanel(name, (answer) => this.#onLive(answer));
    this.element = el(
      "article",
      { class: "model" },
      el(
        "header",
        { class: "model-head" },
        el("div", {}, el("h1", { text: name }), this.subtitle),
        el("div", { class: "choose" }, el("label", { for: "version", text: "Version" }), this.chooser),
      ),
      this.controls?.element,
      this.trial,
      this.panel.element,
      this.table.element,
      this.about,
    );
  }

  close() {
    this.closed = true;
    release(this.about);
    this.panel.close();
  }

  /** The versions changed: their states, or which there are. */
  update(versions) {
    const told = JSON.stringify(versions);
    if (told === this.#told) return;
    this.#told = told;
    this.versions = versions;
    this.#options();
    this.table.update(versions);
    // Of a model that was never loaded the server has no numbers.
    if (versions.some((each) => each.version)) this.panel.start();
    else this.panel.close();
    const key = this.version ? this.#asked()?.state : ready(versions).join();
    if (key !== this.#key || !this.tryit) {
      this.#key = key;
      this.#load();
    } else this.tryit.offer(ready(versions));
  }

  /** The version that the address names. */
  #asked() {
    return this.versions.find((each) => each.version === this.version);
  }

  async #load() {
    const asked = this.#asked();
    if (asked ? asked.state !== "READY" : !ready(this.versions).length) {
      await this.#explain(asked ?? this.versions[0]);
      return;
    }
    try {
      const schema = await get(modelPath(this.name, this.version, "schema"));
      const card = await this.#card(schema.version);
      if (this.closed) return;
      this.tryit = new TryIt(this.name, this.version, schema, card, ready(this.versions), this.tryit);
      this.trial.replaceChildren(this.tryit.element);
      release(this.about);
      this.subtitle.textContent = [schema.task, ...describe(schema)].join(" · ");
      this.about.replaceChildren(about(this.name, schema.version, card));
    } catch (error) {
      if (!this.closed) this.#cannot(error.message);
    }
  }

  #card(version) {
    return get(modelPath(this.name, version, "card")).catch(() => null);
  }

  #cannot(reason) {
    this.tryit = null;
    this.subtitle.textContent = "";
    this.about.replaceChildren();
    this.trial.replaceChildren(
      el("section", { class: "tryit" }, el("h2", { text: "Try it" }), el("p", { class: "error", text: reason })),
    );
  }

  /** Say why a version does not answer, and what its card says. */
  async #explain(version) {
    if (!version?.version) {
      this.#cannot(version?.reason || `${this.name} is not loaded.`);
      return;
    }
    const words = `Version ${version.version} does not serve (${version.state.toLowerCase()})`;
    this.#cannot(version.reason ? `${words}: ${version.reason}` : `${words}.`);
    if (version.state !== "FAILED") return;
    const card = await this.#card(version.version);
    if (!this.closed) this.about.replaceChildren(about(this.name, version.version, card));
  }

  #options() {
    const numbers = this.versions.filter((each) => each.version);
    this.chooser.replaceChildren(
      el("option", { value: "", text: "as clients get it" }),
      ...numbers.map((each) =>
        el("option", { value: each.version, text: `${each.version} (${each.state.toLowerCase()})` }),
      ),
    );
    this.chooser.value = this.version;
  }

  #choose() {
    const parts = this.chooser.value ? [this.name, this.chooser.value] : [this.name];
    location.hash = `#/${parts.map(encodeURIComponent).join("/")}`;
  }

  #onLive(answer) {
    const facts = answer.versions.map((each) => [each.version, each.state, each.device, each.verified, each.fault]);
    const told = JSON.stringify([answer.traffic, facts]);
    if (told === this.#liveTold) return;
    this.#liveTold = told;
    this.table.live(answer);
    // The list of models is asked for less often, and another state changes who can be asked.
    if (ready(answer.versions).join() !== ready(this.versions).join()) this.onChanged();
    const labels = JSON.stringify(answer.traffic?.labels);
    const moved = this.#labels !== null && labels !== this.#labels;
    this.#labels = labels;
    // Clients get another version now.
    if (moved && !this.version) this.#load();
  }
}

/** The versions that answer, lowest first. */
function ready(versions) {
  const numbers = versions.filter((each) => each.state === "READY").map((each) => each.version);
  return numbers.sort((one, other) => Number(one) - Number(other));
}

function describe(schema) {
  const parts = [`version ${schema.version} answers`];
  if (schema.columns.length > 1 || ["NUMBER", "CATEGORY", "DATE"].includes(schema.columns[0]?.kind))
    parts.push(`${schema.columns.length} columns`);
  else if (schema.columns.length) parts.push(schema.columns[0].kind === "TEXT" ? "takes texts" : "takes pictures");
  if (schema.labels.length) parts.push(`${schema.labels.length} ${schema.task === "regression" ? "values" : "labels"}`);
  return parts;
}
