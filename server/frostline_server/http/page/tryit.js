/** Try it: the form, the answer of one version or of two, and the commands that do the same. */

import { modelPath, post } from "./api.js";
import { answerOf, gist } from "./answer.js";
import { copy, el } from "./dom.js";
import { BadField } from "./fields.js";
import { formFor } from "./form.js";
import { bodyOf, curl, python } from "./snippets.js";
import { exactly } from "./strict.js";

export class TryIt {
  #asked = 0;
  #body = null; // of the request that the answers shown are of
  #stop = null;

  /**
   * @param {string} model
   * @param {string} version a number; empty for the one that clients get
   * @param {Object} schema of that version
   * @param {Object|null} card
   * @param {string[]} others the versions that can be asked too
   * @param {Object|null} before the panel of another version, whose fields are taken over
   * @param {boolean} may whether the caller may predict
   */
  constructor(model, version, schema, card, others, before, may) {
    Object.assign(this, { model, version, schema, may });
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
    this.choice = el(
      "span",
      { class: "second" },
      el("label", { for: "second", text: "Ask another version too:" }),
      this.second,
    );
    this.offer(others);
    this.stale = el("p", { class: "note stale-note", text: "This is the answer to the row before.", hidden: true });
    this.news = el("div", { class: "news", role: "status" });
    this.curl = el("code");
    this.python = el("code");
    this.element = el(
      "section",
      { class: "tryit", "aria-labelledby": "try-title" },
      el("h2", { id: "try-title", text: "Try it" }),
      this.news,
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
            el("button", { type: "submit", class: "primary", text: "Predict", disabled: !may }),
            may ? this.choice : el("p", { class: "hint", text: "To predict, you need the role predict." }),
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
    this.choice.hidden = others.length < 2;
  }

  /** Whether the form of this schema would be the same; then it is taken for the one that answers now. */
  adopt(schema) {
    if (formOf(schema) !== formOf(this.schema)) return false;
    this.schema = schema;
    this.news.replaceChildren();
    return true;
  }

  /** Say that a version with another form answers now, and offer that form. */
  announce(version, reload) {
    this.news.replaceChildren(
      el("p", { text: `Version ${version} answers now, and takes other rows.` }),
      el("button", { type: "button", class: "quiet", text: "Reload the form", click: reload }),
    );
  }

  /** Ask about what is in the form. */
  async ask() {
    // A drawing asks by itself.
    if (!this.may) return;
    this.#stop?.abort();
    this.#asked += 1;
    const turn = this.#asked;
    let request;
    try {
      request = this.form.request();
    } catch (error) {
      if (!(error instanceof BadField)) throw error;
      this.#fail(error.message);
      error.field?.dispatchEvent(new Event("invalid"));
      error.field?.focus();
      return;
    }
    const body = told(request);
    const stop = new AbortController();
    this.#stop = stop;
    const waiting = this.#wait(stop);
    const versions = this.second.value ? [this.version, this.second.value] : [this.version];
    const results = await Promise.allSettled(versions.map((version) => this.#predict(version, request, stop.signal)));
    // A later question has its own answer.
    if (turn !== this.#asked) return;
    clearInterval(waiting);
    this.answers.removeAttribute("aria-busy");
    this.waiting.remove();
    const failed = results.find((result) => result.status === "rejected");
    if (failed) {
      this.#fail(failed.reason.name === "AbortError" ? "You cancelled the question." : failed.reason.message);
      return;
    }
    this.error.textContent = "";
    this.#body = body;
    this.#show(results.map((result) => result.value));
    this.#compare();
    // The button may be far below the answer, or on a narrow screen above it.
    this.answers.scrollIntoView({ block: "nearest" });
  }

  /** Say from the first second on that the answer is waited for, and offer not to. */
  #wait(stop) {
    const start = performance.now();
    const told = el("span", {});
    this.waiting?.remove();
    this.waiting = el(
      "p",
      { class: "waiting", hidden: true },
      told,
      el("button", { type: "button", class: "quiet", text: "Cancel", click: () => stop.abort() }),
    );
    this.answers.setAttribute("aria-busy", "true");
    this.error.before(this.waiting);
    const turn = this.#asked;
    const waiting = setInterval(() => {
      if (turn !== this.#asked) {
        clearInterval(waiting);
        return;
      }
      told.textContent = `Waiting for the answer, ${Math.round((performance.now() - start) / 1000)} s.`;
      this.waiting.hidden = false;
    }, 1000);
    return waiting;
  }

  async #predict(version, request, signal) {
    const before = performance.now();
    const path = modelPath(this.model, version, "predict");
    const answer = await post(path, request.file ?? bodyOf(request), signal, exactly);
    return { answer, took: performance.now() - before };
  }

  #show(results) {
    const shown = results.map(({ answer, took }) => answerOf(answer, took, this.schema));
    this.answers.classList.toggle("several", shown.length > 1);
    this.answers.replaceChildren(this.stale, ...shown);
    if (shown.length < 2) return;
    const [one, other] = results.map(({ answer }) => gist(answer));
    if (one === null) return;
    const words = one === other ? `Both versions answer ${one}.` : `The versions differ: ${one}, and ${other}.`;
    this.stale.after(el("p", { class: "note compared", text: words }));
  }

  #fail(message) {
    this.error.textContent = message;
    this.#body = null;
    this.#compare();
    this.answers.removeAttribute("aria-busy");
    this.answers.classList.remove("several");
    this.answers.replaceChildren(el("p", { class: "empty", text: "There is no answer; see beside the button." }));
    this.error.scrollIntoView({ block: "nearest" });
  }

  /** Dim an answer that is not of what the form has now. */
  #compare() {
    let stale = false;
    if (this.#body !== null) {
      try {
        stale = told(this.form.request()) !== this.#body;
      } catch {
        stale = true;
      }
    }
    this.stale.hidden = !stale;
    this.answers.classList.toggle("stale", stale);
  }

  #submit(event) {
    event.preventDefault();
    this.ask();
  }

  #changed() {
    this.#compare();
    let request;
    try {
      request = this.form.request();
    } catch {
      request = this.form.sample?.();
      // Half-typed; the commands stay those of what was typed before.
      if (!request) return;
    }
    this.curl.textContent = curl(this.model, this.version, request);
    this.python.textContent = python(this.model, this.version, this.schema, request);
  }
}

/** What of a schema makes the form. */
function formOf({ columns, inputs, labels, example, max_rows: rows, task }) {
  return JSON.stringify([columns, inputs, labels, example, rows, task]);
}

/** A request as text; of a file, what tells it from another. */
function told({ file, ...request }) {
  return file ? `${file.name} ${file.size} ${file.lastModified}` : JSON.stringify(bodyOf(request));
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
