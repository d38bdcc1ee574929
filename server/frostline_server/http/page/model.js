/** The selected model: try it, live, its versions, and what its card says. */

import { about, release } from "./about.js";
import { get, modelPath } from "./api.js";
import { Controls } from "./control.js";
import { el, plural } from "./dom.js";
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
   * @param {Object} may what the caller may do: `predict`, `observe`, `control`, and `load` where the server allows it
   * @param {function(): void} onChanged something on the server was changed
   */
  constructor(name, version, may, onChanged) {
    Object.assign(this, { name, version, may, onChanged });
    this.versions = [];
    this.subtitle = el("p", { class: "subtitle" });
    this.chooser = el("select", { id: "version", change: () => this.#choose() });
    this.trial = el("div", {});
    this.about = el("div", {});
    this.controls = may.control ? new Controls(name, may.load, onChanged) : null;
    this.table = new VersionsTable(this.controls && ((...chosen) => this.controls.promote(...chosen)));
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
      may.observe ? this.panel.element : null,
      may.observe ? this.table.element : null,
      this.about,
    );
  }

  close() {
    this.closed = true;
    release(this.about);
    this.panel.close();
  }

  /** The versions changed: their states, or which there are; null where the caller may not know them. */
  update(versions) {
    const told = JSON.stringify(versions);
    if (told === this.#told) return;
    this.#told = told;
    this.listed = versions !== null;
    this.versions = versions ?? [];
    this.#options();
    this.controls?.update(this.versions);
    this.table.update(this.versions);
    this.table.element.hidden = !this.versions.length;
    // Of a model that was never loaded the server has no numbers, and of one that is not loaded it has only old ones.
    const live = ready(this.versions).length > 0;
    this.panel.element.hidden = this.version ? this.#asked()?.state !== "READY" : !live;
    if (live && this.may.observe) this.panel.start();
    else this.panel.close();
    const key = this.version ? (this.#asked()?.state ?? "none") : ready(this.versions).join();
    if (key !== this.#key || !this.#shown()) {
      this.#key = key;
      this.#load();
    } else this.tryit.offer(ready(this.versions));
  }

  /** Whether the form is there, and not a sentence why it is not. */
  #shown() {
    return Boolean(this.tryit) && this.trial.contains(this.tryit.element);
  }

  /** The version that the address names. */
  #asked() {
    return this.versions.find((each) => each.version === this.version);
  }

  /** Show the version that answers. A form that is there already stays, with what was typed and answered. */
  async #load(reload = false) {
    const asked = this.#asked();
    if (this.listed && this.version && !asked) {
      this.#cannot(`${this.name} has no version ${this.version} here; it has ${listed(this.versions)}.`);
      return;
    }
    if (this.listed && (asked ? asked.state !== "READY" : !ready(this.versions).length)) {
      await this.#explain(asked ?? this.versions[0]);
      return;
    }
    try {
      const schema = await get(modelPath(this.name, await this.#answering(), "schema"));
      const card = await this.#card(schema.version);
      if (this.closed) return;
      const kept = this.#shown() && !reload && this.tryit.version === this.version;
      if (kept && !this.tryit.adopt(schema)) {
        this.tryit.announce(schema.version, () => this.#load(true));
        this.tryit.offer(ready(this.versions));
        return;
      }
      if (!kept) {
        const others = ready(this.versions);
        this.tryit = new TryIt(this.name, this.version, schema, card, others, this.tryit, this.may.predict);
        this.trial.replaceChildren(this.tryit.element);
      }
      this.tryit.offer(ready(this.versions));
      release(this.about);
      this.subtitle.textContent = [schema.task, ...describe(schema)].join(" · ");
      this.about.replaceChildren(about(this.name, schema.version, card));
    } catch (error) {
      const unknown = `This server has no model ${this.name}${this.version ? ` in version ${this.version}` : ""}.`;
      if (!this.closed) this.#cannot(error.status === 404 ? unknown : error.message);
    }
  }

  /** The version to show: the one that was chosen, or the stable one, as with a canary another may answer at times. */
  async #answering() {
    if (this.version || !this.may.observe || !this.listed) return this.version;
    const { labels, percent } = (await get(modelPath(this.name, "", "live"))).traffic;
    const [most, ...others] = Object.entries(percent).sort(([, one], [, other]) => other - one);
    return others.length ? String(labels.stable ?? most[0]) : "";
  }

  #card(version) {
    return get(modelPath(this.name, version, "card")).catch(() => null);
  }

  #cannot(reason) {
    this.subtitle.textContent = "";
    release(this.about);
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
    const { state, reason } = version;
    const words = { FAILED: "could not be loaded", LOADING: "is being loaded", UNLOADING: "is being unloaded" };
    const told = `Version ${version.version} of ${this.name} ${words[state] ?? "is not loaded"}`;
    this.#cannot(reason && reason !== "unloaded" ? `${told}: ${reason}` : `${told}.`);
    if (version.state !== "FAILED") return;
    const card = await this.#card(version.version);
    if (!this.closed) this.about.replaceChildren(about(this.name, version.version, card));
  }

  #options() {
    const numbers = this.versions.filter((each) => each.version);
    const absent = this.version && !this.#asked();
    this.chooser.replaceChildren(
      el("option", { value: "", text: "as clients get it" }),
      absent ? el("option", { value: this.version, text: `${this.version} (not here)` }) : "",
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
    if (moved && !this.version && this.#shown()) this.#load();
  }
}

function listed(versions) {
  const numbers = versions.map((each) => each.version).filter(Boolean);
  return numbers.length ? `version${numbers.length > 1 ? "s" : ""} ${numbers.toReversed().join(", ")}` : "none";
}

/** The versions that answer, lowest first. */
function ready(versions) {
  const numbers = versions.filter((each) => each.state === "READY").map((each) => each.version);
  return numbers.sort((one, other) => Number(one) - Number(other));
}

function describe(schema) {
  const parts = [`version ${schema.version} answers`];
  if (schema.columns.length > 1 || ["NUMBER", "CATEGORY", "DATE"].includes(schema.columns[0]?.kind))
    parts.push(plural(schema.columns.length, "column"));
  else if (schema.columns.length) parts.push(schema.columns[0].kind === "TEXT" ? "takes texts" : "takes pictures");
  if (schema.labels.length) parts.push(`${schema.labels.length} ${schema.task === "regression" ? "values" : "labels"}`);
  return parts;
}
