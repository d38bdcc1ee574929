/** The list of models: one element a model, which the browser lays out only where it is seen. */

import { el, plural } from "./dom.js";

/** Versions by model, each model's newest first, from the answer of the repository index. */
export function grouped(index) {
  const models = new Map();
  for (const { name, version = "", state = "UNAVAILABLE", reason = "" } of index) {
    if (!models.has(name)) models.set(name, []);
    if (version || reason) models.get(name).push({ version, state: shown(state, reason), reason });
  }
  for (const versions of models.values()) versions.sort((a, b) => Number(b.version) - Number(a.version));
  return new Map([...models].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })));
}

// The protocol has no word for a version that failed to load; one that was unloaded on purpose says so.
function shown(state, reason) {
  return state === "UNAVAILABLE" && reason && reason !== "unloaded" ? "FAILED" : state;
}

/** What a model is: READY if a version answers, else FAILED if one failed, else its newest version's state. */
export function stateOf(versions) {
  for (const state of ["READY", "FAILED"]) {
    if (versions.some((version) => version.state === state)) return state;
  }
  return versions[0]?.state ?? "UNAVAILABLE";
}

function numbered(versions) {
  const numbers = versions.map((each) => each.version).filter(Boolean);
  if (!numbers.length) return "not loaded";
  if (numbers.length > 3) return `${numbers.length} versions, up to ${numbers[0]}`;
  return `version${numbers.length > 1 ? "s" : ""} ${numbers.toReversed().join(", ")}`;
}

/** A state as an element: its word, with a colour beside it. */
export function badge(state) {
  return el("span", { class: `badge ${state.toLowerCase()}`, text: state.toLowerCase() });
}

export class ModelList {
  #items = new Map();
  #selected = "";
  #stop = null;

  constructor(list, search, found) {
    this.list = list;
    this.search = search;
    this.found = found;
    search.addEventListener("input", () => this.#filter());
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.list.querySelector("a")?.click();
      if (event.key === "ArrowDown") this.#focus(this.list.firstElementChild, event);
    });
    list.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Show these models; what did not change is left as it is. */
  update(models) {
    const before = this.#items;
    this.#items = new Map();
    for (const [name, versions] of models) {
      const told = JSON.stringify(versions);
      const item = before.get(name) ?? { row: el("li"), told: "" };
      this.#items.set(name, item);
      if (item.told === told) continue;
      item.told = told;
      const focused = item.row.contains(document.activeElement);
      item.row.replaceChildren(this.#link(name, versions));
      if (focused) item.row.firstChild.focus();
    }
    this.#filter();
  }

  /** Mark the model that is shown. */
  select(name) {
    this.#linkOf(this.#selected)?.removeAttribute("aria-current");
    this.#selected = name;
    const link = this.#linkOf(name);
    link?.setAttribute("aria-current", "page");
    link?.scrollIntoView({ block: "nearest" });
    this.#tabStop();
  }

  #link(name, versions) {
    const failed = versions.filter((version) => version.state === "FAILED");
    const state = stateOf(versions);
    return el(
      "a",
      {
        href: `#/${encodeURIComponent(name)}`,
        tabindex: "-1",
        title: failed.length ? `version ${failed[0].version}: ${failed[0].reason}` : null,
        "aria-current": name === this.#selected ? "page" : null,
      },
      el("span", { class: "name", text: name }),
      el("span", { class: "hint", text: numbered(versions) }),
      el(
        "span",
        { class: "states" },
        badge(state),
        failed.length && state !== "FAILED"
          ? el("span", { class: "badge failed", text: `${failed.length} failed` })
          : null,
      ),
    );
  }

  #linkOf(name) {
    return this.#items.get(name)?.row.firstChild;
  }

  #filter() {
    const words = this.search.value.trim().toLowerCase().split(/\s+/);
    const matching = [...this.#items].filter(([name]) => words.every((word) => name.toLowerCase().includes(word)));
    const rows = matching.map(([, { row }]) => row);
    const shown = this.list.children;
    // All rows at once: a browser takes a hundred times as long to hide them one by one.
    if (rows.length !== shown.length || rows.some((row, at) => row !== shown[at])) this.list.replaceChildren(...rows);
    const all = plural(this.#items.size, "model");
    this.found.textContent = rows.length === this.#items.size ? all : `${rows.length} of ${all}`;
    this.#tabStop();
  }

  // One stop for the tabulator, not a thousand; the arrow keys go on from there.
  #tabStop() {
    const selected = this.#items.get(this.#selected)?.row;
    const stop = selected?.isConnected ? selected : this.list.firstElementChild;
    if (this.#stop !== stop && this.#stop) this.#stop.firstChild.tabIndex = -1;
    if (stop) stop.firstChild.tabIndex = 0;
    this.#stop = stop;
  }

  #move(event) {
    const rows = [...this.list.children];
    const at = rows.indexOf(document.activeElement.closest("li"));
    const to = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      Home: 0,
      End: rows.length - 1,
      PageDown: at + 10,
      PageUp: at - 10,
    }[event.key];
    if (to === undefined) return;
    if (to < 0 && event.key === "ArrowUp") this.search.focus();
    else this.#focus(rows[Math.min(Math.max(to, 0), rows.length - 1)], event);
  }

  #focus(row, event) {
    if (!row) return;
    event.preventDefault();
    row.firstChild.focus();
  }
}
