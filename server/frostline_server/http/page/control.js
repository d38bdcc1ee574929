/** Dialogs that ask before anything on the server is changed. */

import { el, freshId } from "./dom.js";

/**
 * Ask whether to do something.
 * @param {string} title
 * @param {string} text what will happen
 * @param {string} action the word on the button
 * @param {Node|null} further fields
 * @returns {Promise<boolean>} whether it was confirmed
 */
export function confirmed(title, text, action, further = null) {
  const id = freshId("dialog");
  const dialog = el("dialog", { "aria-labelledby": id });
  const close = (answer) => () => dialog.close(answer);
  dialog.append(
    el("h2", { id, text: title }),
    el("p", { text }),
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

/** How a version is to be promoted: for all requests, for a share of them, or as a shadow. */
export class PromoteFields {
  constructor() {
    const name = freshId("how");
    const choice = (value, text, checked) => {
      const input = el("input", { type: "radio", name, value, id: freshId("choice"), checked });
      return [input, el("p", { class: "choice" }, input, el("label", { for: input.id, text }))];
    };
    const [, stable] = choice("stable", "for all requests (stable)", true);
    const [canary, canaryRow] = choice("canary", "for a share of the requests (canary), in percent:", false);
    const [shadow, shadowRow] = choice("shadow", "with a copy of the requests, whose answers nobody gets (shadow)", false);
    this.canary = canary;
    this.shadow = shadow;
    this.percent = el("input", { type: "number", min: "1", max: "100", value: "10", "aria-label": "percent of the requests", input: () => { canary.checked = true; } });
    canaryRow.append(this.percent);
    this.element = el("fieldset", {}, el("legend", { text: "It is to answer" }), stable, canaryRow, shadowRow);
  }

  /** The body of the request. */
  body(version) {
    if (this.canary.checked) return { version, canary: Number(this.percent.value) };
    return this.shadow.checked ? { version, shadow: true } : { version };
  }
}
