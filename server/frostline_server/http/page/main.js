/** The page: is the server well, who asks, which models there are, and the one that the address names. */

import { get, post, setGrpc, setToken, token } from "./api.js";
import { el, whileVisible } from "./dom.js";
import { grouped, ModelList } from "./list.js";
import { ModelView } from "./model.js";

const PERIOD = 5000;
const THEME = "frostline.theme";

const byId = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.list = new ModelList(byId("list"), byId("search"), byId("found"));
    this.models = null;
    this.roles = [];
    this.view = null;
    this.told = "";
  }

  async start() {
    theme();
    byId("token-form").addEventListener("submit", (event) => this.#useToken(event));
    window.addEventListener("hashchange", () => this.#route(true));
    await this.#askWho();
    whileVisible(PERIOD, () => this.refresh());
  }

  /** Ask for the server's health and its models. */
  async refresh() {
    await this.#index();
    await this.#health();
  }

  async #health() {
    const shown = byId("health");
    try {
      const status = await get("v2/status");
      setGrpc(status.grpc);
      shown.className = `health ${status.ready ? "well" : "ill"}`;
      say(shown, status.ready ? "Ready" : `Not ready: ${status.reason}`);
    } catch (error) {
      shown.className = "health ill";
      say(shown, error.message);
    }
  }

  async #index() {
    let index;
    try {
      index = await post("v2/repository/index", {});
    } catch (error) {
      if (this.models === null)
        byId("main").replaceChildren(el("p", { class: "error", role: "alert", text: error.message }));
      return;
    }
    const told = JSON.stringify(index);
    if (told === this.told) return;
    this.told = told;
    this.models = grouped(index);
    this.list.update(this.models);
    this.#counts();
    this.#route(false);
  }

  #counts() {
    const count = { READY: 0, FAILED: 0, other: 0 };
    for (const versions of this.models.values()) {
      const states = versions.map((version) => version.state);
      if (states.includes("READY")) count.READY += 1;
      if (states.includes("FAILED")) count.FAILED += 1;
      if (!states.includes("READY") && !states.includes("FAILED")) count.other += 1;
    }
    const parts = [
      ["ready", "ready", count.READY],
      ["failed", "with a failed version", count.FAILED],
      ["other", "not loaded", count.other],
    ];
    byId("counts").replaceChildren(
      ...parts.map(([name, words, number]) =>
        el("span", { class: name }, el("strong", { text: String(number) }), ` ${words}`),
      ),
    );
  }

  async #askWho() {
    try {
      const me = await get("v2/me");
      this.roles = me.roles;
      byId("who").textContent = me.name;
      byId("roles").textContent = me.roles.length ? `May ${me.roles.join(", ")}.` : "May do nothing here.";
    } catch (error) {
      this.roles = [];
      byId("who").textContent = token() ? "token refused" : "no token";
      byId("roles").textContent = error.message;
      byId("account").open = true;
    }
  }

  async #useToken(event) {
    event.preventDefault();
    setToken(byId("token").value.trim());
    byId("token").value = "";
    await this.#askWho();
    this.view?.close();
    this.view = null;
    this.told = "";
    await this.refresh();
  }

  #route(moved) {
    if (this.models === null) return;
    let [name = "", version = ""] = named(location.hash);
    if (!name)
      name =
        [...this.models].find(([, versions]) => versions.some((each) => each.state === "READY"))?.[0] ??
        [...this.models.keys()][0] ??
        "";
    const main = byId("main");
    const versions = this.models.get(name);
    if (!versions) {
      this.view?.close();
      this.view = null;
      this.list.select("");
      main.replaceChildren(
        el("p", {
          class: "empty",
          text: name
            ? `This server has no model ${name}.`
            : "This server has no models. Put one into its models folder.",
        }),
      );
      return;
    }
    if (this.view?.name !== name || this.view.version !== version) {
      const before = this.view;
      before?.close();
      this.view = new ModelView(name, version, this.roles.includes("control"), () => this.refresh());
      // The fields of the version before are taken over.
      if (before?.name === name) this.view.tryit = before.tryit;
      main.replaceChildren(this.view.element);
      this.view.update(versions);
      document.title = `${name} – Frostline`;
      this.list.select(name);
      if (moved) main.scrollIntoView({ block: "start" });
    } else this.view.update(versions);
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

function theme() {
  const root = document.documentElement;
  const button = byId("theme");
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
  };
  const kept = localStorage.getItem(THEME);
  if (kept) root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem(THEME, root.dataset.theme);
    show();
  });
  show();
}

new Page().start();
