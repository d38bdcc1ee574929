/** How a version is to be promoted, and what the traffic will be afterwards. */

import { modelPath, post } from "./api.js";
import { el, freshId } from "./dom.js";
import { faultOf, numberInput } from "./fields.js";

/** The fields of the dialog: for all requests, for a share of them, or as a shadow. */
export class PromoteFields {
  /**
   * @param {string} model
   * @param {number} version
   * @param {Object|null} traffic of the model, as the server says it
   */
  constructor(model, version, traffic) {
    const { labels = {}, percent = {}, shadow = null, problems = [] } = traffic ?? {};
    // While another version stands in for the stable one, the label does not tell which one that is.
    this.sure = problems.length === 0;
    Object.assign(this, { model, version, percents: percent, shadowed: shadow, changed: false });
    this.labels = { ...labels };
    const name = freshId("how");
    const choice = (value, text, checked) => {
      const input = el("input", { type: "radio", name, value, id: freshId("choice"), checked });
      return [input, el("p", { class: "choice" }, input, el("label", { for: input.id, text }))];
    };
    const [stable, stableRow] = choice("stable", "for all requests (stable)", true);
    const [canary, canaryRow] = choice("canary", "for a share of the requests (canary), in percent:", false);
    const [copy, copyRow] = choice("shadow", "with a copy of the requests, whose answers nobody gets (shadow)", false);
    Object.assign(this, { stable, canary, copy });
    this.percent = numberInput({
      class: "percent",
      value: "10",
      "aria-label": "percent of the requests",
      input: () => {
        canary.checked = true;
      },
    });
    canaryRow.append(this.percent);
    this.before = el("div", { class: "news" });
    this.after = el("p", { class: "afterwards", role: "status" });
    this.element = el(
      "div",
      { input: () => this.#update() },
      this.before,
      el(
        "fieldset",
        {},
        el("legend", { text: "It is to answer" }),
        stableRow,
        canaryRow,
        faultOf(this.percent),
        copyRow,
      ),
      this.after,
    );
    this.#update();
  }

  /** The body of the request. */
  body() {
    const { version } = this;
    // The server refuses if somebody else has promoted another version since this dialog was opened.
    const expected = this.sure ? this.labels.stable : undefined;
    if (this.canary.checked) {
      const share = Number(this.percent.value.trim());
      if (!(share > 0 && share < 100)) {
        const wanted = "The share must be a number above 0 and below 100, such as 12.5";
        throw new Error(`${wanted}; it is "${this.percent.value}".`);
      }
      return { version, canary: share, expected };
    }
    return this.copy.checked ? { version, shadow: true, expected } : { version, expected };
  }

  #update() {
    const { stable } = this.labels;
    const tryable = stable !== undefined && stable !== this.version;
    for (const input of [this.canary, this.copy, this.percent]) input.disabled = !tryable;
    if (!tryable) this.stable.checked = true;
    this.#offer(stable);
    this.after.textContent = this.#afterwards(stable);
  }

  /** What must be done first, if anything. */
  #offer(stable) {
    const { version } = this;
    const offers = [];
    if (stable === version) offers.push([`Version ${version} is stable; only another version can be tried beside it.`]);
    else if (stable === undefined) {
      const answers = this.#answering();
      const why = "No version is stable yet, so none can be tried beside it.";
      if (answers === null || answers === version) offers.push([why]);
      else {
        const act = () => this.#step("promote", { version: answers }, () => (this.labels = { stable: answers }));
        offers.push([`${why} Version ${answers} answers now.`, `Make version ${answers} stable first`, act]);
      }
    }
    const trials = this.#trials();
    if (trials.length) {
      const act = () =>
        this.#step("rollback", {}, () => {
          delete this.labels.canary;
          this.shadowed = null;
        });
      offers.push([`On trial now: ${trials.join(", ")}.`, "End the trial first", act]);
    }
    const told = JSON.stringify(offers);
    if (told === this.told) return;
    this.told = told;
    this.before.replaceChildren(
      ...offers.flatMap(([text, action, act]) => [
        el("p", { text }),
        action ? el("button", { type: "button", class: "quiet", text: action, click: act }) : "",
      ]),
    );
    this.before.hidden = !offers.length;
  }

  /** The version that most requests get. */
  #answering() {
    const [first] = Object.entries(this.percents).sort(([, one], [, other]) => other - one);
    return first ? Number(first[0]) : null;
  }

  #trials() {
    const { canary } = this.labels;
    const share = this.percents[canary];
    return [
      ...(canary !== undefined ? [`version ${canary} is canary${share ? ` with ${share}\u00a0%` : ""}`] : []),
      ...(this.shadowed ? [`version ${this.shadowed} gets a copy`] : []),
    ];
  }

  /** In words, as the server adds a canary and a shadow up. */
  #afterwards(stable) {
    const { version } = this;
    const { canary } = this.labels;
    if (this.stable.checked) {
      const ends = this.#trials().length ? "; trials end" : "";
      return `Afterwards version ${version} is stable and answers all requests${ends}.`;
    }
    const share = this.canary.checked ? Number(this.percent.value) : canary === undefined ? 0 : this.percents[canary];
    const tried = this.canary.checked ? version : canary;
    const copied = this.copy.checked ? version : this.shadowed;
    const parts = [`version ${stable} is stable`];
    if (tried !== undefined) {
      const also = copied === tried ? " and also gets a copy of the stable version's requests" : "";
      parts.push(`version ${tried} is canary${share ? ` with ${share}\u00a0%` : ""}${also}`);
    }
    if (copied && copied !== tried) parts.push(`version ${copied} gets a copy`);
    return `Afterwards ${parts.join(", ")}.`;
  }

  async #step(what, body, then) {
    try {
      await post(modelPath(this.model, "", what), body);
      this.changed = true;
      then();
      this.#update();
      this.stable.focus();
    } catch (error) {
      this.before.append(el("p", { class: "error", role: "alert", text: error.message }));
    }
  }
}
