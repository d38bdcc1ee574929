/** Dialogs that ask before anything on the server is changed, and stay open when it refuses. */

import { modelPath, post } from "./api.js";
import { el, freshId } from "./dom.js";
import { PromoteFields } from "./promote.js";

/**
 * Ask whether to do something, and do it.
 * @param {string} title
 * @param {string} text what will happen
 * @param {string} action the word on the button
 * @param {function(): Promise<Object>} act does it
 * @param {Node|null} further fields
 * @returns {Promise<?Object>} what `act` gave as `answer`; null where nothing was done
 */
function confirmed(title, text, action, act, further = null) {
  const id = freshId("dialog");
  const error = el("p", { class: "error", role: "alert", tabindex: "-1" });
  const dialog = el("dialog", { "aria-labelledby": id });
  let done = null;
  async function press() {
    button.disabled = true;
    error.textContent = "";
    try {
      done = { answer: await act() };
      dialog.close();
    } catch (failure) {
      error.textContent = failure.message;
      error.focus();
    }
    button.disabled = false;
  }
  const button = el("button", { type: "button", class: "primary", text: action, click: press });
  dialog.append(
    el("h2", { id, text: title }),
    text ? el("p", { text }) : "",
    ...(further ? [further] : []),
    error,
    el(
      "p",
      { class: "actions" },
      el("button", { type: "button", class: "quiet", text: "Cancel", autofocus: true, click: () => dialog.close() }),
      button,
    ),
  );
  document.body.append(dialog);
  const before = document.activeElement;
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(done);
    });
    dialog.showModal();
  });
}

/** The buttons that change what the server does with a model, and what became of the last one. */
export class Controls {
  /**
   * @param {string} model
   * @param {boolean} loads whether the server loads and unloads models when it is asked to
   * @param {function(): void} onChanged something was changed
   */
  constructor(model, loads, onChanged) {
    this.model = model;
    this.loads = loads;
    this.onChanged = onChanged;
    this.result = el("p", { class: "result", role: "status", tabindex: "-1" });
    const button = (text, click) => el("button", { type: "button", class: "quiet", text, click });
    this.buttons = {
      load: button("Load", () => this.#load()),
      unload: button("Unload", () => this.#unload()),
      rollback: button("Roll back", () => this.#rollback()),
    };
    this.group = el(
      "div",
      { class: "controls", role: "group", "aria-label": `Change what the server does with ${model}` },
      ...Object.values(this.buttons),
    );
    this.element = el("div", {}, this.group, this.result);
    this.update([]);
  }

  /** Offer what can be done with these versions. */
  update(versions) {
    const loaded = versions.some((each) => each.state === "READY");
    this.buttons.load.hidden = !this.loads;
    this.buttons.unload.hidden = !this.loads || !loaded;
    this.buttons.rollback.hidden = !loaded;
    this.group.hidden = !this.loads && !loaded;
  }

  /**
   * Ask how to promote a version, and do it.
   * @param {number} version
   * @param {Object|null} traffic of the model, as the server says it
   * @param {Element} place after which to say what became of it
   */
  async promote(version, traffic, place) {
    const fields = new PromoteFields(this.model, version, traffic);
    const act = () => post(modelPath(this.model, "", "promote"), fields.body());
    const title = `Promote version ${version} of ${this.model}?`;
    this.#tell("Promote", await confirmed(title, "", "Promote", act, fields.element), place, fields.changed);
  }

  async #load() {
    const text = "The server reads the model's folder and loads what it finds there.";
    const act = () => post(`v2/repository/models/${encodeURIComponent(this.model)}/load`, {});
    this.#tell("Load", await confirmed(`Load ${this.model}, or load it again?`, text, "Load", act));
  }

  async #unload() {
    const text = "All its versions stop answering. Requests that name it fail until it is loaded again.";
    const act = () => post(`v2/repository/models/${encodeURIComponent(this.model)}/unload`, {});
    this.#tell("Unload", await confirmed(`Unload ${this.model}?`, text, "Unload", act));
  }

  async #rollback() {
    const text =
      "If a version is being tested, the test ends. Otherwise the version that was stable before is stable again.";
    const act = () => post(modelPath(this.model, "", "rollback"), {});
    this.#tell("Roll back", await confirmed(`Roll back ${this.model}?`, text, "Roll back", act));
  }

  #tell(word, done, place = this.group, changed = false) {
    if (done) {
      this.result.textContent = `${word}: ${done.answer?.rollout ?? "done"}.`;
      place.after(this.result);
      this.result.focus();
    }
    if (done || changed) this.onChanged();
  }
}
