/** What a model does now: charts of the differences between the server's counters, one a second. */

import { get, modelPath } from "./api.js";
import { bars, LineChart } from "./chart.js";
import { el, milliseconds, percent, plural, whileVisible } from "./dom.js";

const KEPT = 60;
const WINDOW = 10; // seconds that percentiles and means are taken over, as those of a single second jump
const FEWEST = 20; // requests that a percentile is taken of
const QUANTILES = [0.5, 0.95, 0.99];
const MOST_LABELS = 8;

/** The value below which a share of the observations lies, by the counts of a histogram's buckets; NaN of none. */
export function quantile(share, bounds, cumulative) {
  const all = cumulative.at(-1);
  if (!all) return NaN;
  const rank = share * all;
  const at = cumulative.findIndex((count) => count >= rank);
  if (at >= bounds.length) return bounds.at(-1);
  const low = at === 0 ? 0 : bounds[at - 1];
  const before = at === 0 ? 0 : cumulative[at - 1];
  return low + ((bounds[at] - low) * (rank - before)) / (cumulative[at] - before || 1);
}

function brief(value) {
  return Number(value.toPrecision(3)).toLocaleString("en");
}

/** The counters of all versions together; `labels` is null where none counts any. */
function totals(answer) {
  const sum = { at: answer.at_s, requests: 0, failed: 0, queue: 0, latency: null, batch: null, labels: null };
  for (const version of answer.versions) {
    sum.requests += version.requests ?? 0;
    sum.failed += version.failed ?? 0;
    sum.queue += version.queue_rows ?? 0;
    sum.latency = added(sum.latency, version.latency_s);
    sum.batch = added(sum.batch, version.batch_rows);
    if (version.predictions) sum.labels ??= new Map();
    for (const [label, count] of Object.entries(version.predictions ?? {})) {
      sum.labels.set(label, (sum.labels.get(label) ?? 0) + count);
    }
  }
  return sum;
}

function added(one, other) {
  if (!one || !other) return one ?? other ?? null;
  if (one.bounds.length !== other.bounds.length) return one;
  return {
    bounds: one.bounds,
    counts: one.counts.map((count, at) => count + other.counts[at]),
    sum: one.sum + other.sum,
  };
}

function since(before, now) {
  if (!now) return null;
  if (!before || before.counts.length !== now.counts.length) return now;
  return {
    bounds: now.bounds,
    counts: now.counts.map((count, at) => count - before.counts[at]),
    sum: now.sum - before.sum,
  };
}

export class LivePanel {
  #seen = [];
  #points = [];
  #stop = null;

  /**
   * @param {string} model
   * @param {function(Object): void} onAnswer is given each answer of the server: the versions with device and proof
   */
  constructor(model, onAnswer) {
    this.model = model;
    this.onAnswer = onAnswer;
    this.charts = {
      rate: new LineChart("Requests a second", ["answered", "failed"], brief, KEPT),
      latency: new LineChart("Time of a request", ["p50", "p95", "p99"], milliseconds, KEPT, "wide"),
      queue: new LineChart("Rows in the queue", [""], brief, KEPT),
      batch: new LineChart("Rows in a batch, mean", [""], brief, KEPT),
    };
    this.shares = el("div", {});
    this.sharesTitle = el("figcaption", { text: "Share of labels" });
    this.table = el("tbody");
    this.note = el("p", { class: "hint", role: "status" });
    const tableColumns = [
      "seconds ago",
      "answered a second",
      "failed a second",
      "p50",
      "p95",
      "p99",
      "rows in the queue",
      "rows in a batch",
    ];
    this.details = el(
      "details",
      { toggle: () => this.#fillTable() },
      el("summary", { text: "These numbers as a table" }),
      el(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of the last minute" },
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, ...tableColumns.map((text) => el("th", { scope: "col", text })))),
          this.table,
        ),
      ),
    );
    this.charts.rate.element.classList.add("rates");
    this.element = el(
      "section",
      { class: "live", "aria-labelledby": "live-title" },
      el("h2", { id: "live-title", text: "Live" }),
      this.note,
      el(
        "div",
        { class: "charts" },
        ...Object.values(this.charts).map((chart) => chart.element),
        el("figure", { class: "chart shares" }, this.sharesTitle, this.shares),
      ),
      this.details,
    );
  }

  /** Ask every second while the page is visible. */
  start() {
    this.#stop ??= whileVisible(1000, () => this.#ask());
  }

  /** Ask no more, until it is started again. */
  close() {
    this.#stop?.();
    this.#stop = null;
  }

  async #ask() {
    try {
      const answer = await get(modelPath(this.model, "", "live"));
      this.note.textContent =
        answer.processes > 1 ? `The numbers are those of one of the server's ${answer.processes} processes.` : "";
      this.onAnswer(answer);
      this.#add(totals(answer));
    } catch (error) {
      if (this.note.textContent !== error.message) this.note.textContent = error.message;
      for (const chart of Object.values(this.charts)) chart.old(true);
      this.shares.classList.add("old");
      // Whoever may not know it now may not know it in a second either.
      if (error.status >= 400 && error.status < 500) this.close();
    }
  }

  #add(now) {
    const last = this.#seen.at(-1);
    // After a restart the counters begin again, and after a while in the background the minute has passed.
    const restarted = last && (now.requests < last.requests || now.failed < last.failed || now.at <= last.at);
    if (restarted || (last && now.at - last.at > KEPT)) this.#seen = [];
    const before = this.#seen.at(-1);
    this.#seen.push(now);
    if (this.#seen.length > KEPT) this.#seen.shift();
    if (!before) this.#points = [];
    const past = this.#seen.findLast((each) => now.at - each.at >= WINDOW) ?? this.#seen[0];
    const latency = past === now ? null : since(past.latency, now.latency);
    const batch = past === now ? null : since(past.batch, now.batch);
    this.#points.push({
      at: now.at,
      rate: before ? (now.requests - before.requests) / (now.at - before.at) : NaN,
      failed: before ? (now.failed - before.failed) / (now.at - before.at) : NaN,
      timed: latency?.counts.at(-1) ?? 0,
      latency: QUANTILES.map((share) =>
        latency?.counts.at(-1) >= FEWEST ? quantile(share, latency.bounds, latency.counts) : NaN,
      ),
      queue: now.queue,
      batch: batch?.counts.at(-1) ? batch.sum / batch.counts.at(-1) : NaN,
    });
    if (this.#points.length > KEPT) this.#points.shift();
    this.#draw(now);
  }

  #draw(now) {
    const points = this.#points;
    this.charts.rate.update([points.map((point) => point.rate), points.map((point) => point.failed)]);
    this.charts.rate.element.classList.toggle("failing", points.at(-1).failed > 0);
    const { timed } = points.at(-1);
    const few = timed > 0 && timed < FEWEST ? `; percentiles from ${FEWEST} on` : "";
    this.charts.latency.caption.textContent = `Time of a request, of ${plural(timed, "request")} in ${WINDOW} s${few}`;
    this.charts.latency.update(QUANTILES.map((_, at) => points.map((point) => point.latency[at])));
    this.shares.classList.remove("old");
    this.charts.queue.update([points.map((point) => point.queue)]);
    this.charts.batch.update([points.map((point) => point.batch)]);
    this.#drawShares(now);
    this.#fillTable();
  }

  #drawShares(now) {
    this.shares.parentElement.hidden = now.labels === null;
    if (now.labels === null) return;
    const first = this.#seen[0];
    const recent = [...now.labels].map(([label, count]) => [label, count - (first.labels?.get(label) ?? 0)]);
    const quiet = recent.every(([, count]) => count === 0);
    const counted = (quiet ? [...now.labels] : recent).sort(([, one], [, other]) => other - one);
    const all = counted.reduce((sum, [, count]) => sum + count, 0);
    this.sharesTitle.textContent = `Share of labels, ${quiet ? "since the start" : "last minute"}`;
    if (!all) {
      this.shares.replaceChildren(el("p", { class: "hint", text: "no predictions counted yet" }));
      return;
    }
    const shown = counted.slice(0, MOST_LABELS).map(([label, count]) => [label, count / all]);
    this.shares.replaceChildren(bars(shown, percent));
    if (counted.length > MOST_LABELS) {
      this.shares.append(el("p", { class: "hint", text: `and ${counted.length - MOST_LABELS} more` }));
    }
  }

  #fillTable() {
    if (!this.details.open) return;
    const told = (value, words) => (Number.isFinite(value) ? words(value) : "–");
    const now = this.#points.at(-1)?.at ?? 0;
    const rows = this.#points
      .toReversed()
      .map((point) => [
        (now - point.at).toFixed(0),
        told(point.rate, brief),
        told(point.failed, brief),
        ...point.latency.map((value) => told(value, milliseconds)),
        told(point.queue, brief),
        told(point.batch, brief),
      ]);
    this.table.replaceChildren(...rows.map((cells) => el("tr", {}, ...cells.map((text) => el("td", { text })))));
  }
}
