/** Try it: the form, the answer of one version or of two, and the commands that do the same. */

import { modelPath, post } from "./api.js";
import { answerOf, gist } from "./answer.js";
import { copy, el } from "./dom.js";
import { BadField } from "./fields.js";
import { formFor } from "./form.js";
import { bodyOf, curl, python } from "./snippets.js";

export class TryIt {
  #asked = 0;

  /**
   * @param {string} model
   * @param {string} version a number; empty for the one that clients get
   * @param {Object} schema of that version
   * @param {Object|null} card
   * @param {string[]} others the versions that can be asked too
   * @param {Object|null} before the panel of another version, whose fields are taken over
   */
  constructor(model, version, schema, card, others, before) {
    Object.assign(this, { model, version, schema });
    this.form = formFor(
      schema,
      card,
      () => this.#changed(),
      () => this.ask(),
    );
    if (before && before.model === model && before.form.constructor === this.form.constructor)
      this.form.restore(before.form.state());
    this.error = el("p", { class: "error", role: "alert" });
    this.answers = el("div", { class: "answers", "aria-live": "polite" });
    this.answers.append(el("p", { class: "empty", text: "The answer appears here." }));
    this.second = el(
      "select",
      { id: "second", change: () => this.#changed() },
      el("option", { value: "", text: "no other version" }),
    );
    this.offer(others);
    this.curl = el("code");
    this.python = el("code");
    this.element = el(
      "section",
      { class: "tryit", "aria-labelledby": "try-title" },
      el("h2", { id: "try-title", text: "Try it" }),
      el(
        "div",
        { class: "two" },
        el(
          "form",
          { "aria-labelledby": "try-title", novalidate: true, submit: (event) => this.#submit(event) },
          this.form.element,
          el(
            "div",
            { class: "actions" },
            el("button", { type: "submit", class: "primary", text: "Predict" }),
            el(
              "span",
              { class: "second" },
              el("label", { for: "second", text: "Ask another version too:" }),
              this.second,
            ),
          ),
          this.error,
        ),
        this.answers,
      ),
      el(
        "details",
        { class: "snippets" },
        el("summary", { text: "The same with curl or Python" }),
        snippet("curl", this.curl),
        snippet("Python", this.python),
      ),
    );
    this.#changed();
  }

  /** The versions that can be asked beside the first. */
  offer(others) {
    const chosen = this.second.value;
    const options = others
      .filter((each) => each !== this.version)
      .map((each) => el("option", { value: each, text: `version ${each}` }));
    this.second.replaceChildren(this.second.options[0], ...options);
    this.second.value = options.some((option) => option.value === chosen) ? chosen : "";
  }

  /** Ask about what is in the form. */
  async ask() {
    this.#asked += 1;
    const turn = this.#asked;
    let request;
    try {
      request = this.form.request();
    } catch (error) {
      if (!(error instanceof BadField)) throw error;
      this.#fail(error.message);
      error.field?.focus();
      return;
    }
    this.answers.setAttribute("aria-busy", "true");
    const versions = this.second.value ? [this.version, this.second.value] : [this.version];
    const results = await Promise.allSettled(versions.map((version) => this.#predict(version, request)));
    // A later question has its own answer.
    if (turn !== this.#asked) return;
    this.answers.removeAttribute("aria-busy");
    const failed = results.find((result) => result.status === "rejected");
    if (failed) {
      this.#fail(failed.reason.message);
      return;
    }
    this.error.textContent = "";
    this.#show(results.map((result) => result.value));
  }

  async #predict(version, request) {
    const before = performance.now();
    const answer = await post(modelPath(this.model, version, "predict"), request.file ?? bodyOf(request));
    return { answer, took: performance.now() - before };
  }

  #show(results) {
    const shown = results.map(({ answer, took }) => answerOf(answer, took, this.schema));
    this.answers.classList.toggle("several", shown.length > 1);
    this.answers.replaceChildren(...shown);
    if (shown.length < 2) return;
    const [one, other] = results.map(({ answer }) => gist(answer));
    if (one === null) return;
    const words = one === other ? `Both versions answer ${one}.` : `The versions differ: ${one}, and ${other}.`;
    this.answers.prepend(el("p", { class: "note compared", text: words }));
  }

  #fail(message) {
    this.error.textContent = message;
    this.answers.removeAttribute("aria-busy");
    this.answers.classList.remove("several");
    this.answers.replaceChildren(el("p", { class: "empty", text: "There is no answer; see beside the button." }));
  }

  #submit(event) {
    event.preventDefault();
    this.ask();
  }

  #changed() {
    let request;
    try {
      request = this.form.request();
    } catch {
      request = this.form.sample?.();
      // Half-typed; the commands stay those of what was typed before.
      if (!request) return;
    }
    this.curl.textContent = curl(this.model, this.version, request);
    this.python.textContent = python(this.model, this.version, this.schema.task, request);
  }
}

function snippet(title, code) {
  const said = el("span", { class: "hint", role: "status" });
  async function press() {
    try {
      await copy(code.textContent);
      said.textContent = "copied";
    } catch {
      said.textContent = "the browser refused; select the text";
    }
  }
  return el(
    "div",
    { class: "snippet" },
    el(
      "p",
      { class: "snippet-head" },
      el("strong", { text: title }),
      el("button", {
        type: "button",
        class: "quiet",
        text: "Copy",
        "aria-label": `Copy the ${title} code`,
        click: press,
      }),
      said,
    ),
    el("pre", { tabindex: "0", role: "region", "aria-label": title }, code),
  );
}
