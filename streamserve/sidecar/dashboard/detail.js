// One column in full: what changed, since when, in which rows, and the command that shows it again.

import { ask } from "./feed.js";
import { attribute, byId, className, h, hide, icon, keyed, text } from "./dom.js";
import { LineChart } from "./charts.js";
import { Histogram } from "./histogram.js";
import { wholeColumn } from "./shape.js";
import * as format from "./format.js";

const AGAIN_MS = 1000;

export class Detail {
  /** `onView(changes)`: another window or segment; `onBack()`: leave the column (narrow screens). */
  constructor({ view, onView, onBack }) {
    this.view = view;
    this.onView = onView;
    this.node = byId("detail");
    this.known = null;
    this.key = "";
    this.asked = 0;
    this.build(onBack);
  }

  build(onBack) {
    this.back = h("button", { class: "back quiet", type: "button", text: "← all columns", on: { click: onBack } });
    this.title = h("h2", { class: "detail-title", tabindex: "-1" });
    this.mark = icon("ok");
    this.tags = h("span", { class: "tags muted" });
    this.words = h("p", { class: "detail-words" });
    this.window = h("select", { "aria-label": "Window", on: { change: () => this.onView({ window: this.window.value }) } });
    this.segment = h("select", { "aria-label": "Segment", on: { change: () => this.onView({ segment: this.segment.value }) } });
    this.problem = h("p", { class: "hollow", hidden: true });
    this.histogram = new Histogram();
    this.score = new LineChart({ title: "Change over time", height: 150, sync: "detail", series: [{ label: "effect", colour: "--line-soft", above: "--alarm", width: 2 }], unit: (value) => format.number(value, 2) });
    this.missing = new LineChart({ title: "Missing share", height: 84, sync: "detail", series: [{ label: "missing", colour: "--line-1", fill: "--line-1-wash" }], unit: (value) => format.percent(value) });
    this.statistics = h("dl", { class: "statistics" });
    this.offsets = h("tbody");
    this.spanTitle = h("h3", { text: "Where to find these rows" });
    this.command = h("code");
    this.copied = h("button", { type: "button", text: "copy", class: "copy", on: { click: () => this.copy() } });
    this.span = h("div", { class: "span" });
    this.body = h("div", { class: "detail-body" },
      this.histogram.node, this.score.node, this.missing.node, this.statistics, this.span);
    this.span.append(...[this.spanTitle, h("div", { class: "wide" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ...["partition", "first offset", "end offset", "rows"].map((name) => h("th", { scope: "col", text: name })))), this.offsets)),
        h("h3", { text: "Replay this" }), h("div", { class: "command" }, this.command, this.copied)]);
    this.node.append(this.back,
      h("header", { class: "card-head" }, h("div", { class: "detail-name" }, this.mark, this.title, this.tags), h("div", { class: "pick" }, this.window, this.segment)),
      this.words, this.problem, this.body);
  }

  /** Show the chosen column of `model`, or what there is to say without one. */
  paint(overview, model, now) {
    const column = model?.columns.find((one) => one.name === this.view.column) ?? null;
    if (!column) {
      this.key = "";
      this.nothing(this.view.column ? `${this.view.column} is not a column of this version.` : "Choose a column to see what changed.", model);
      return;
    }
    const window_s = Number(this.view.window) || column.window_s;
    const segment = this.view.window || this.view.segment ? this.view.segment : column.segment;
    this.head(model, column, window_s, segment, now);
    const key = JSON.stringify([model.model, model.version, window_s, segment, column.name]);
    const another = key !== this.key;
    this.key = key;
    if (another) className(this.node, "loading", true);
    if (another || performance.now() - this.asked > AGAIN_MS) this.load(key, { model: model.model, version: model.version, window_s, segment, name: column.name });
  }

  nothing(words, model) {
    hide(this.body, true);
    hide(this.problem, false);
    text(this.problem, words);
    text(this.title, "");
    text(this.tags, "");
    text(this.words, "");
    className(this.node, "empty", true);
    hide(this.node, !model?.columns.length);
  }

  head(model, column, window_s, segment, now) {
    hide(this.node, false);
    className(this.node, "empty", false);
    attribute(this.mark.use, "href", column.drifted ? "#i-alarm" : "#i-ok");
    className(this.node, "drifted", column.drifted);
    text(this.title, column.name);
    text(this.tags, `${column.origin} · ${column.kind}`);
    options(this.window, model.windows.map((one) => [String(one.window_s), format.window(one.window_s)]), String(window_s));
    const segments = [["", "all rows"], ...model.segments.map((one) => [one.segment, one.segment])];
    if (segment && !segments.some(([value]) => value === segment)) segments.push([segment, segment]);
    options(this.segment, segments, segment);
    hide(this.segment, segments.length < 2);
    text(this.words, sentence(column, now));
    if (this.focusing) this.title.focus({ preventScroll: true });
    this.focusing = false;
  }

  async load(key, query) {
    this.asked = performance.now();
    if (this.loading === key) return;
    this.loading = key;
    try {
      const found = wholeColumn(await ask(`api/column?${new URLSearchParams(query)}`));
      if (key === this.key) this.show(found);
    } catch (error) {
      if (key === this.key && (error.status || this.shownKey !== key)) this.fail(error);
    } finally {
      if (this.loading === key) this.loading = "";
      if (key === this.key) className(this.node, "loading", false);
    }
  }

  fail(error) {
    this.shownKey = "";
    hide(this.body, true);
    hide(this.problem, false);
    text(this.problem, error.status === 404 ? "Too few rows here yet in this window and segment." : `This column cannot be shown: ${error.message}.`);
  }

  show(found) {
    this.shownKey = this.key;
    hide(this.body, false);
    hide(this.problem, true);
    this.found = found;
    for (const dirty of this.dirty) dirty();
  }

  /** What shows an answer, each in a frame of its own. */
  parts(painter) {
    const part = (node, paint, how) => painter.part(node, () => this.found && this.shownKey && paint(this.found), how);
    this.dirty = [
      part(this.histogram.node, (found) => this.histogram.update(found)),
      part(this.score.node, (found) => this.paintScore(found), { heavy: true }),
      part(this.missing.node, ({ history }) => this.missing.update([history.end_ms, history.missing]), { heavy: true }),
      part(this.statistics, (found) => this.paintStatistics(found)),
      part(this.span, (found) => this.paintSpan(found)),
    ];
  }

  paintScore(found) {
    const { history } = found, kind = this.kindOf(found);
    this.score.settings.series[0].format = (value) => format.effect(value, kind);
    this.score.update([history.end_ms, history.effect], { floor: history.floor, name: `floor ${format.effect(history.floor, kind)}`, spans: spans(history.end_ms, history.drifted) });
  }

  kindOf(found) {
    return this.kinds?.get(found.name) ?? "wasserstein";
  }

  paintStatistics(found) {
    const rows = [["rows", format.count(found.rows)], ["effective rows", format.count(found.n_effective)],
      ...Object.entries(found.statistics).map(([name, value]) => [STATISTICS[name] ?? name.replaceAll("_", " "), name.endsWith("_p") || name === "p" ? format.chance(value) : format.number(value)])];
    keyed(this.statistics, rows, ([name]) => name, () => h("div", {}, h("dt"), h("dd")), (node, [name, value]) => {
      text(node.children[0], name);
      text(node.children[1], value);
    });
  }

  paintSpan(found) {
    const partitions = Object.entries(found.span?.partitions ?? {});
    text(this.spanTitle, partitions.length ? `Rows of this window in ${found.span.topic}` : "Rows of this window");
    keyed(this.offsets, partitions, ([partition]) => partition, () => h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), h("td")), (row, [partition, [first, end]]) => {
      for (const [index, value] of [partition, format.count(first), format.count(end), format.count(end - first)].entries()) text(row.children[index], value);
    });
    text(this.command, found.replay ?? "");
    hide(this.command.parentElement, !found.replay);
    hide(this.command.parentElement.previousElementSibling, !found.replay);
  }

  async copy() {
    const done = await clip(this.command);
    text(this.copied, done ? "copied ✓" : "select it by hand");
    setTimeout(() => text(this.copied, "copy"), 2000);
  }
}

const STATISTICS = {
  chi_square_p: "chi-square p", ks_p: "KS p", psi: "PSI", js: "Jensen-Shannon", hellinger: "Hellinger", wasserstein: "Wasserstein / σ",
  total_variation: "total variation", l_infinity: "L-infinity", ks: "KS", chi_square: "chi-square",
};

/** Copy the text of a node; without permission it is left selected. */
async function clip(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy"); // without HTTPS there is no other way
  }
}

function options(select, wanted, value) {
  const same = select.options.length === wanted.length && wanted.every(([name], index) => select.options[index].value === name);
  if (!same) select.replaceChildren(...wanted.map(([name, label]) => h("option", { value: name, text: label })));
  if (select.value !== value) select.value = value;
}

const unbroken = (p) => format.chance(p).replaceAll(" ", "\u00a0");

function sentence(column, now) {
  const size = `${format.effect(column.effect, column.effect_kind)}`;
  const floor = `the floor is ${format.effect(column.floor, column.effect_kind)}`;
  if (column.drifted) {
    const since = column.since_ms === null ? "" : `, since ${format.when(column.since_ms, now)} (${format.duration(now - column.since_ms)})`;
    return `Moved by ${size}${since}; ${floor}. By chance that happens with p\u00a0=\u00a0${unbroken(column.p)}.`;
  }
  if (column.effect > column.floor) return `Differs by ${size}, over its floor, but not more than chance allows (p\u00a0=\u00a0${unbroken(column.p)}).`;
  return `No drift: differs by ${size}, ${floor}.`;
}

/** Runs of true as [from, to] in time. */
function spans(ends, flags) {
  const found = [];
  let from = null;
  for (const [index, flag] of (flags ?? []).entries()) {
    if (flag && from === null) from = ends[index];
    if (!flag && from !== null) {
      found.push([from, ends[index]]);
      from = null;
    }
  }
  if (from !== null) found.push([from, ends.at(-1)]);
  return found;
}
