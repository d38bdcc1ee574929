/** Small line charts in SVG, each with its current value as text beside it. */

import { el, svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 64;

/** A chart of the last `length` values of some lines, and the words for them. */
export class LineChart {
  /**
   * @param {string} title
   * @param {string[]} lines their names; one without a name is alone
   * @param {function(number): string} words a value as text
   * @param {number} length how many values are shown
   * @param {string} width "wide" for two columns of the page's three
   */
  constructor(title, lines, words, length, width = "") {
    this.title = title;
    this.lines = lines;
    this.words = words;
    this.length = length;
    this.paths = lines.map((_, at) => svg("path", { class: `line line-${at + 1}` }));
    this.picture = svg(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        role: "img",
        preserveAspectRatio: "none",
        "aria-label": `${title}: nothing yet`,
      },
      svg("path", { class: "axis", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      ...this.paths,
    );
    this.values = lines.map(() => el("strong", { text: "–" }));
    this.top = el("span", { class: "hint" });
    this.caption = el("figcaption", { text: title });
    this.end = el("span", { text: "now" });
    this.element = el(
      "figure",
      { class: `chart ${width}` },
      this.caption,
      el(
        "p",
        { class: "now" },
        ...lines.map((line, at) =>
          el("span", {}, line ? el("span", { class: `key line-${at + 1}`, text: line }) : null, this.values[at]),
        ),
      ),
      this.picture,
      el("p", { class: "scale hint" }, el("span", { text: `${length} s ago` }), this.top, this.end),
    );
  }

  /** Draw these values, the newest last; NaN where there is none. */
  update(series) {
    const known = series.flat().filter(Number.isFinite);
    const highest = Math.max(...known, 0);
    const top = highest || 1;
    series.forEach((values, at) => {
      this.paths[at].setAttribute("d", this.#path(values, top));
      this.values[at].textContent = this.#told(values.at(-1));
    });
    this.top.textContent = known.length ? `highest ${this.words(highest)}` : "nothing yet";
    this.old(false);
    const now = this.lines.map((line, at) => `${line ? `${line} ` : ""}${this.#told(series[at].at(-1))}`);
    this.picture.setAttribute("aria-label", `${this.title}: ${now.join(", ")} now; ${this.top.textContent}`);
  }

  /** Whether these values are no longer those of now. */
  old(is) {
    this.element.classList.toggle("old", is);
    this.end.textContent = is ? "last answer" : "now";
    const label = this.picture.getAttribute("aria-label");
    if (is) this.picture.setAttribute("aria-label", label.replace(" now; ", " at the last answer; "));
  }

  #told(value) {
    return Number.isFinite(value) ? this.words(value) : "–";
  }

  #path(values, top) {
    const step = WIDTH / (this.length - 1);
    const first = this.length - values.length;
    let path = "";
    let pen = "M";
    values.forEach((value, at) => {
      if (!Number.isFinite(value)) {
        pen = "M";
        return;
      }
      const x = ((first + at) * step).toFixed(1);
      const y = (HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1);
      // A value between two gaps would be a line without length; the round cap makes a point of it.
      path += `${pen}${x} ${y}${pen === "M" ? `L${x} ${y}` : ""}`;
      pen = "L";
    });
    return path;
  }
}

/** Bars of shares as a list: [name, share] each, with an optional mark for one of them. */
export function bars(entries, words, chosen = () => false) {
  const rows = entries.map(([name, share]) => {
    const bar = el("span", { class: "bar" });
    // The policy forbids style attributes; properties set by a script are no such attributes.
    bar.style.setProperty("--share", Number.isFinite(share) ? Math.min(Math.max(share, 0), 1) : 0);
    return el(
      "li",
      { class: chosen(name) ? "chosen" : null },
      el("span", { class: "bar-name", text: name, title: name }),
      el("span", { class: "bar-track", "aria-hidden": "true" }, bar),
      el("span", { class: "bar-value", text: words(share) }),
    );
  });
  return el("ul", { class: "bars" }, ...rows);
}
