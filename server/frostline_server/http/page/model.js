/** The selected model: try it, live, its versions, and what its card says. */

import { about, release } from "./about.js";
import { get, modelPath, post } from "./api.js";
import { confirmed, PromoteFields } from "./control.js";
import { el, readable } from "./dom.js";
import { badge } from "./list.js";
import { LivePanel } from "./live.js";
import { TryIt } from "./tryit.js";

export class ModelView {
  #live = new Map();
  #traffic = null;
  #told = "";

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
    this.result = el("p", { class: "result", role: "status" });
    this.trial = el("div", {});
    this.about = el("div", {});
    this.versionsTable = el("tbody");
    this.panel = new LivePanel(name, (answer) => this.#onLive(answer));
    const columns = ["version", "state", "traffic", "device", "proof", "reason", ...(control ? ["change"] : [])];
    this.element = el(
      "article",
      { class: "model" },
      el(
        "header",
        { class: "model-head" },
        el("div", {}, el("h1", { text: name }), this.subtitle),
        el("div", { class: "choose" }, el("label", { for: "version", text: "Version" }), this.chooser),
      ),
      control ? this.#controls() : null,
      this.result,
      this.trial,
      this.panel.element,
      el(
        "section",
        { "aria-labelledby": "versions-title" },
        el("h2", { id: "versions-title", text: "Versions" }),
        el(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of versions" },
          el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((text) => el("th", { scope: "col", text })))), this.versionsTable),
        ),
      ),
      this.about,
    );
  }

  close() {
    this.closed = true;
    release(this.about);
    this.panel.stop?.();
  }

  /** The versions changed: their states, or which there are. */
  update(versions) {
    const told = JSON.stringify(versions);
    if (told === this.#told) return;
    this.#told = told;
    this.versions = versions;
    this.#options();
    this.#table();
    // Of a model that was never loaded the server has no numbers.
    if (!this.panel.stop && versions.some((each) => each.version)) this.panel.start();
    const ready = versions.filter((each) => each.state === "READY").map((each) => each.version);
    const key = this.version || ready.join(" ");
    if (key !== this.key || !this.tryit) {
      this.key = key;
      this.#load(ready);
    } else this.tryit.offer(ready);
  }

  async #load(ready) {
    const asked = this.versions.find((each) => each.version === this.version);
    if (asked ? asked.state !== "READY" : !ready.length) {
      const version = asked ?? this.versions[0];
      this.#cannot(this.#whyNot(version));
      if (version?.state === "FAILED" && version.version) this.about.replaceChildren(about(this.name, version.version, await this.#card(version.version)));
      return;
    }
    try {
      const schema = await get(modelPath(this.name, this.version, "schema"));
      const card = await this.#card(schema.version);
      if (this.closed) return;
      this.tryit = new TryIt(this.name, this.version, schema, card, ready, this.tryit);
      this.trial.replaceChildren(this.tryit.element);
      release(this.about);
      this.about.replaceChildren(about(this.name, schema.version, card));
      this.subtitle.textContent = [schema.task, ...describe(schema)].join(" · ");
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
    this.trial.replaceChildren(el("section", { class: "tryit" }, el("h2", { text: "Try it" }), el("p", { class: "error", text: reason })));
  }

  #whyNot(version) {
    if (!version) return `${this.name} is not loaded.`;
    const words = `Version ${version.version || "–"} does not answer: it is ${version.state.toLowerCase()}`;
    return version.reason ? `${words}. ${version.reason}` : `${words}.`;
  }

  #options() {
    const numbers = this.versions.filter((each) => each.version);
    this.chooser.replaceChildren(
      el("option", { value: "", text: "as clients get it" }),
      ...numbers.map((each) => el("option", { value: each.version, text: `${each.version} (${each.state.toLowerCase()})` })),
    );
    this.chooser.value = this.version;
  }

  #choose() {
    location.hash = `#/${[this.name, ...(this.chooser.value ? [this.chooser.value] : [])].map(encodeURIComponent).join("/")}`;
  }

  #onLive(answer) {
    const seen = new Map(answer.versions.map((each) => [each.version, each]));
    const told = JSON.stringify([answer.traffic, ...answer.versions.map((each) => [each.version, each.state, each.device, each.verified, each.fault])]);
    if (told === this.liveTold) return;
    this.liveTold = told;
    this.#live = seen;
    this.#traffic = answer.traffic;
    this.#table();
    // The list of models is asked for less often, and another state changes who can be asked.
    const ready = (versions) => versions.filter((each) => each.state === "READY").map((each) => each.version).sort().join(" ");
    if (ready(answer.versions) !== ready(this.versions)) this.onChanged();
  }

  #table() {
    // The buttons of a row keep the focus when the row is made again.
    const focus = document.activeElement?.dataset?.key;
    this.versionsTable.replaceChildren(...this.versions.map((each) => this.#row(each)));
    if (focus) this.versionsTable.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
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
      this.control ? el("td", {}, version && state !== "FAILED" ? el("button", { type: "button", class: "quiet", "data-key": `promote ${version}`, text: "Promote …", "aria-label": `Promote version ${version}`, click: () => this.#promote(version) }) : null) : null,
    );
  }

  #share(version) {
    const traffic = this.#traffic;
    if (!traffic) return "–";
    const labels = Object.entries(traffic.labels ?? {}).filter(([, number]) => String(number) === version).map(([label]) => label);
    const share = traffic.percent?.[version];
    const parts = [...labels, ...(share === undefined ? [] : [`${readable(share)} %`]), ...(String(traffic.shadow) === version ? ["shadow"] : [])];
    return parts.join(", ") || "–";
  }

  #controls() {
    const button = (text, click) => el("button", { type: "button", class: "quiet", text, click });
    return el(
      "div",
      { class: "controls", role: "group", "aria-label": `Change what the server does with ${this.name}` },
      button("Load", () => this.#change("Load", `Load ${this.name}, or load it again?`, "The server reads the model's folder and loads what it finds there.", `v2/repository/models/${encodeURIComponent(this.name)}/load`)),
      button("Unload", () => this.#change("Unload", `Unload ${this.name}?`, "All its versions stop answering. Requests that name it fail until it is loaded again.", `v2/repository/models/${encodeURIComponent(this.name)}/unload`)),
      button("Roll back", () => this.#change("Roll back", `Roll back ${this.name}?`, "If a version is being tested, the test ends. Otherwise the version that was stable before is stable again.", modelPath(this.name, "", "rollback"))),
    );
  }

  #promote(version) {
    const fields = new PromoteFields();
    return this.#change("Promote", `Promote version ${version} of ${this.name}?`, "", modelPath(this.name, "", "promote"), fields.element, () => fields.body(Number(version)));
  }

  async #change(word, title, text, path, further = null, body = () => ({})) {
    if (!(await confirmed(title, text, word, further))) return;
    this.result.className = "result";
    this.result.textContent = `${word} …`;
    try {
      const answer = await post(path, body());
      this.result.textContent = `${word}: ${answer?.rollout ?? "done"}.`;
    } catch (error) {
      this.result.className = "result error";
      this.result.textContent = `${word}: ${error.message}`;
    }
    this.onChanged();
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

function describe(schema) {
  const parts = [`version ${schema.version} answers`];
  if (schema.columns.length > 1 || ["NUMBER", "CATEGORY", "DATE"].includes(schema.columns[0]?.kind)) parts.push(`${schema.columns.length} columns`);
  else if (schema.columns.length) parts.push(schema.columns[0].kind === "TEXT" ? "takes texts" : "takes pictures");
  if (schema.labels.length) parts.push(`${schema.labels.length} ${schema.task === "regression" ? "values" : "labels"}`);
  return parts;
}
