/** Dialogs that ask before anything on the server is changed. */

import { modelPath, post } from "./api.js";
import { el, freshId } from "./dom.js";

/**
 * Ask whether to do something.
 * @param {string} title
 * @param {string} text what will happen
 * @param {string} action the word on the button
 * @param {Node|null} further fields
 * @returns {Promise<boolean>} whether it was confirmed
 */
function confirmed(title, text, action, further = null) {
  const id = freshId("dialog");
  const dialog = el("dialog", { "aria-labelledby": id });
  const close = (answer) => () => dialog.close(answer);
  dialog.append(
    el("h2", { id, text: title }),
    text ? el("p", { text }) : "",
    ...(further ? [further] : []),
    el(
      "p",
      { class: "actions" },
      el("button", { type: "button", class: "quiet", text: "Cancel", autofocus: true, click: close("") }),
      el("button", { type: "button", class: "primary", text: action, click: close("yes") }),
    ),
  );
  document.body.append(dialog);
  const before = document.activeElement;
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}

/** The buttons that change what the server does with a model, and what became of the last one. */
export class Controls {
  /**
   * @param {string} model
   * @param {function(): void} onChanged something was changed, or could not be
   */
  constructor(model, onChanged) {
    this.model = model;
    this.onChanged = onChanged;
    this.result = el("p", { class: "result", role: "status" });
    const button = (text, click) => el("button", { type: "button", class: "quiet", text, click });
    this.element = el(
      "div",
      {},
      el(
        "div",
        { class: "controls", role: "group", "aria-label": `Change what the server does with ${model}` },
        button("Load", () => this.#load()),
        button("Unload", () => this.#unload()),
        button("Roll back", () => this.#rollback()),
      ),
      this.result,
    );
  }

  /** Ask how to promote a version, and do it. */
  async promote(version) {
    const fields = new PromoteFields();
    if (await confirmed(`Promote version ${version} of ${this.model}?`, "", "Promote", fields.element)) {
      await this.#change("Promote", modelPath(this.model, "", "promote"), fields.body(Number(version)));
    }
  }

  async #load() {
    const text = "The server reads the model's folder and loads what it finds there.";
    if (await confirmed(`Load ${this.model}, or load it again?`, text, "Load")) {
      await this.#change("Load", `v2/repository/models/${encodeURIComponent(this.model)}/load`, {});
    }
  }

  async #unload() {
    const text = "All its versions stop answering. Requests that name it fail until it is loaded again.";
    if (await confirmed(`Unload ${this.model}?`, text, "Unload")) {
      await this.#change("Unload", `v2/repository/models/${encodeURIComponent(this.model)}/unload`, {});
    }
  }

  async #rollback() {
    const text =
      "If a version is being tested, the test ends. Otherwise the version that was stable before is stable again.";
    if (await confirmed(`Roll back ${this.model}?`, text, "Roll back")) {
      await this.#change("Roll back", modelPath(this.model, "", "rollback"), {});
    }
  }

  async #change(word, path, body) {
    this.result.className = "result";
    this.result.textContent = `${word} …`;
    try {
      const answer = await post(path, body);
      this.result.textContent = `${word}: ${answer?.rollout ?? "done"}.`;
    } catch (error) {
      this.result.className = "result error";
      this.result.textContent = `${word}: ${error.message}`;
    }
    this.onChanged();
  }
}

/** How a version is to be promoted: for all requests, for a share of them, or as a shadow. */
class PromoteFields {
  constructor() {
    const name = freshId("how");
    const choice = (value, text, checked) => {
      const input = el("input", { type: "radio", name, value, id: freshId("choice"), checked });
      return [input, el("p", { class: "choice" }, input, el("label", { for: input.id, text }))];
    };
    const [, stable] = choice("stable", "for all requests (stable)", true);
    const [canary, canaryRow] = choice("canary", "for a share of the requests (canary), in percent:", false);
    const [shadow, shadowRow] = choice(
      "shadow",
      "with a copy of the requests, whose answers nobody gets (shadow)",
      false,
    );
    this.canary = canary;
    this.shadow = shadow;
    this.percent = el("input", {
      type: "number",
      min: "1",
      max: "99",
      value: "10",
      "aria-label": "percent of the requests",
      input: () => {
        canary.checked = true;
      },
    });
    canaryRow.append(this.percent);
    this.element = el("fieldset", {}, el("legend", { text: "It is to answer" }), stable, canaryRow, shadowRow);
  }

  /** The body of the request. */
  body(version) {
    if (this.canary.checked) return { version, canary: Number(this.percent.value) };
    return this.shadow.checked ? { version, shadow: true } : { version };
  }
}
