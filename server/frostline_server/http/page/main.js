/** The page: is the server well, who asks, which models there are, and the one that the address names. */

import { get, index, REFUSED, sendable, setGrpc, setToken, SILENT, silence, token } from "./api.js";
import { el, freshId, whileVisible } from "./dom.js";
import { grouped, ModelList, stateOf } from "./list.js";
import { ModelView } from "./model.js";
import { theme } from "./theme.js";

const PERIOD = 5000;
const WHO_PERIOD = 15_000;
const MOST_FORMS = 50;
const ME = "v2/me";

const byId = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.list = new ModelList(byId("list"), byId("search"), byId("found"));
    this.models = null;
    this.roles = [];
    this.loads = false;
    this.view = null;
    this.told = "";
    this.forms = new Map(); // by model, so that going back finds them as they were
    this.silent = 0; // the timer while the server does not answer
  }

  async start() {
    theme(byId("theme"));
    byId("token-form").addEventListener("submit", (event) => this.#useToken(event));
    window.addEventListener("hashchange", () => this.#route(true));
    window.addEventListener(REFUSED, ({ detail: path }) => path !== ME && this.#askWho());
    window.addEventListener(SILENT, () => this.#silent());
    await Promise.all([this.#health(), this.#askWho()]);
    whileVisible(WHO_PERIOD, () => this.#askWho());
    whileVisible(PERIOD, () => this.refresh());
  }

  /** Ask for the server's health and its models. */
  async refresh() {
    await Promise.all([this.#index(), this.#health()]);
  }

  async #health() {
    const shown = byId("health");
    try {
      const status = await get("v2/status");
      clearInterval(this.silent);
      this.silent = 0;
      setGrpc(status.grpc);
      if (this.loads !== status.model_control) {
        this.loads = status.model_control;
        this.#again();
      }
      shown.className = `health ${status.ready ? "well" : "ill"}`;
      say(shown, status.ready ? "Ready" : `Not ready: ${status.reason}`);
    } catch (error) {
      // Silence is said by its own event.
      if (error.status === 0) return;
      shown.className = "health ill";
      say(shown, error.message);
    }
  }

  /** Say for how long the server has not answered, until it does. */
  #silent() {
    const shown = byId("health");
    const told = el("span", { "aria-hidden": "true" });
    const tell = () => {
      told.textContent = ` for ${silence()} s`;
    };
    if (this.silent) return;
    shown.className = "health ill";
    // A screen reader hears of it once, and not of every second.
    shown.replaceChildren("No answer", told, ". Is the server still running?");
    tell();
    this.silent = setInterval(tell, 1000);
  }

  async #index() {
    let answer;
    try {
      answer = await index();
    } catch (error) {
      const refused = error.status === 401 || error.status === 403;
      if (refused && this.roles.includes("predict")) this.#unlisted();
      else if (refused || this.models === null) this.#cannot(error.message);
      return;
    }
    const told = JSON.stringify(answer);
    if (told === this.told) return;
    this.told = told;
    this.models = grouped(answer);
    this.list.update(this.models);
    byId("found").hidden = byId("search").hidden = false;
    this.#counts();
    this.#route(false);
  }

  /** Who may predict and not see the list can name a model. */
  #unlisted() {
    if (this.told === "unlisted") return;
    this.told = "unlisted";
    this.#forget("The list of models needs the role observe.");
    this.models = null;
    const name = el("input", { id: freshId("name"), type: "text", autocomplete: "off", spellcheck: "false" });
    const go = (event) => {
      event.preventDefault();
      if (name.value.trim()) location.hash = `#/${encodeURIComponent(name.value.trim())}`;
    };
    const form = el(
      "form",
      { class: "named", submit: go },
      el("label", { for: name.id, text: "The name of a model" }),
      name,
      el("button", { type: "submit", text: "Show it" }),
    );
    byId("list").replaceChildren(el("li", { class: "plain" }, form));
    this.#route(false);
  }

  #cannot(reason) {
    if (this.told === reason) return;
    this.told = reason;
    this.#forget("");
    this.models = null;
    this.#close();
    byId("main").replaceChildren(el("p", { class: "error", role: "alert", text: reason }));
  }

  /** Show no list, and say why. */
  #forget(why) {
    this.list.update(new Map());
    byId("counts").replaceChildren();
    byId("search").hidden = true;
    byId("found").textContent = why;
  }

  #counts() {
    const count = { READY: 0, FAILED: 0, other: 0 };
    let flawed = 0;
    for (const versions of this.models.values()) {
      const state = stateOf(versions);
      count[state in count ? state : "other"] += 1;
      if (state === "READY" && versions.some((version) => version.state === "FAILED")) flawed += 1;
    }
    const parts = [
      ["ready", `ready${flawed ? ` (${flawed} of them with a failed version)` : ""}`, count.READY],
      ["failed", "failed", count.FAILED],
      ["other", "not loaded", count.other],
    ];
    byId("counts").replaceChildren(
      ...parts.map(([name, words, number]) =>
        el("span", { class: name }, el("strong", { text: String(number) }), ` ${words}`),
      ),
    );
  }

  async #askWho() {
    // Several refusals at once are one question.
    this.asking ??= this.#who().finally(() => {
      this.asking = null;
    });
    await this.asking;
  }

  async #who() {
    let roles = [];
    try {
      const me = await get(ME);
      roles = me.roles;
      // Who may do nothing needs another token.
      if (!roles.length && byId("who").textContent !== me.name) byId("account").open = true;
      byId("who").textContent = me.name;
      byId("roles").textContent = roles.length ? `May ${roles.join(", ")}.` : "May do nothing here.";
    } catch (error) {
      // A server that is silent has not changed what anybody may do.
      if (error.status === 0) return;
      const words = token() ? "token refused" : "no token";
      if (byId("who").textContent !== words) byId("account").open = true;
      byId("who").textContent = words;
      byId("roles").textContent = error.message;
    }
    if (roles.join() === this.roles.join()) return;
    this.roles = roles;
    this.#again();
  }

  async #useToken(event) {
    event.preventDefault();
    const typed = byId("token").value.trim();
    if (!sendable(typed)) {
      byId("token-error").textContent =
        "A token has only letters, digits and signs of ASCII, without spaces; this one has another character.";
      byId("token").focus();
      return;
    }
    byId("token-error").textContent = "";
    setToken(typed);
    byId("token").value = "";
    this.#close();
    this.told = "";
    await this.#askWho();
    await this.refresh();
  }

  /** Show the model again, as what may be done with it has changed. */
  #again() {
    const started = this.told !== "";
    this.#close();
    this.told = "";
    if (started) this.#index();
  }

  #close() {
    if (!this.view) return;
    this.view.close();
    this.forms.delete(this.view.name);
    if (this.view.tryit) this.forms.set(this.view.name, this.view.tryit);
    if (this.forms.size > MOST_FORMS) this.forms.delete(this.forms.keys().next().value);
    this.view = null;
  }

  #route(moved) {
    const listed = this.models !== null;
    if (!listed && this.told !== "unlisted") return;
    let [name = "", version = ""] = named(location.hash);
    if (!name && listed)
      name =
        [...this.models].find(([, versions]) => versions.some((each) => each.state === "READY"))?.[0] ??
        [...this.models.keys()][0] ??
        "";
    const versions = listed ? this.models.get(name) : name ? null : undefined;
    if (versions === undefined) this.#nothing(name, listed);
    else if (this.view?.name !== name || this.view.version !== version) this.#show(name, version, versions, moved);
    else this.view.update(versions);
  }

  #show(name, version, versions, moved) {
    const main = byId("main");
    this.#close();
    const may = Object.fromEntries(["predict", "observe", "control"].map((role) => [role, this.roles.includes(role)]));
    this.view = new ModelView(name, version, { ...may, load: this.loads }, () => this.refresh());
    // The fields of the version before, or of the visit before, are taken over.
    this.view.tryit = this.forms.get(name);
    main.replaceChildren(this.view.element);
    this.view.update(versions);
    document.title = `${name} – Frostline`;
    this.list.select(name);
    if (moved) main.scrollIntoView({ block: "start" });
  }

  #nothing(name, listed) {
    this.#close();
    this.list.select("");
    document.title = name ? `No model ${name} – Frostline` : "Frostline";
    const title = name ? `No model ${name}` : listed ? "No models" : "Name a model";
    const text = name
      ? `This server has no model ${name}. Choose one from the list.`
      : listed
        ? "This server has no models. Put one into its models folder."
        : "You may predict, but the list of models needs the role observe. Type the name of a model to try it.";
    byId("main").replaceChildren(el("h1", { text: title }), el("p", { class: "empty", text }));
  }
}

/** The parts of an address such as #/churn/3. */
function named(hash) {
  try {
    return hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return [];
  }
}

// A screen reader says a status again whenever it is written, so only what changed is.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

new Page().start();
