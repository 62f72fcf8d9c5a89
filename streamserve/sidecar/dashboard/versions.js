// Versions beside each other, and the segments of the chosen one.

import { attribute, byId, h, hide, keyed, property, text } from "./dom.js";
import * as format from "./format.js";

const MOST = 8;

export class Versions {
  constructor({ onColumn }) {
    this.onColumn = onColumn;
    this.node = byId("versions");
    this.headRow = h("tr");
    this.body = h("tbody");
    this.pairs = h("div", { class: "pairs" });
    this.pairsNote = h("p", { class: "muted" });
    this.node.append(h("header", { class: "card-head" }, h("h2", { text: "Versions side by side" })),
      h("div", { class: "versions-grid" },
        h("div", { class: "wide" }, h("table", { class: "plain versions-table" }, h("thead", {}, this.headRow), this.body)),
        h("div", { class: "differences" }, h("h3", { text: "Where they differ most" }), this.pairsNote, this.pairs)));
  }

  paint(overview, chosen, now) {
    const models = overview.models.slice(0, 4);
    hide(this.node, !models.length);
    if (!models.length) return;
    keyed(this.headRow, [null, ...models], (model) => (model ? `${model.model}/${model.version}` : ""), (model) =>
      h("th", { scope: "col" }, model ? `${model.model} ${model.version} ` : "", model ? h("span", { class: "role", text: model.role }) : null), (node, model) => {
      attribute(node, "class", model && model === chosen ? "chosen" : null);
      if (model) text(node.children[0], model.role);
    });
    const rows = facts(models, now);
    keyed(this.body, rows, ([name]) => name, ([name]) => h("tr", {}, h("th", { scope: "row", text: name })), (row, [, ...values]) => {
      while (row.children.length < values.length + 1) row.append(h("td"));
      while (row.children.length > values.length + 1) row.lastChild.remove();
      for (const [index, value] of values.entries()) text(row.children[index + 1], value);
    });
    this.paintPairs(models);
  }

  /** The columns whose change differs most between the first two versions, on one scale of floors. */
  paintPairs(models) {
    const [left, right] = [models.find((model) => model.role === "stable") ?? models[0], models.find((model) => model.role !== "stable") ?? models[1]];
    const comparable = left && right && left !== right && left.columns.length && right.columns.length;
    hide(this.pairs.parentElement, !comparable);
    if (!comparable) return;
    const other = new Map(right.columns.map((column) => [column.name, column]));
    const pairs = left.columns.filter((column) => other.has(column.name))
      .map((column) => ({ name: column.name, floor: column.floor, kind: column.effect_kind, a: column, b: other.get(column.name) }))
      .map((pair) => ({ ...pair, gap: Math.abs(pair.a.effect / pair.a.floor - pair.b.effect / pair.b.floor) }))
      .sort((x, y) => y.gap - x.gap).slice(0, MOST);
    const most = Math.max(2, ...pairs.flatMap(({ a, b }) => [a.effect / a.floor, b.effect / b.floor]));
    text(this.pairsNote, `Change against each one's own reference, in floors: ○ ${left.version} ${left.role}, ◆ ${right.version} ${right.role}`);
    keyed(this.pairs, pairs, ({ name }) => name, ({ name }) => h("button", { type: "button", class: "pair-row", on: { click: () => this.onColumn({ column: name }) } },
      h("span", { class: "pair-name", text: name }), h("span", { class: "track" }, h("i", { class: "dot-a" }), h("i", { class: "dot-b" })), h("span", { class: "num" })), (node, { a, b, kind }) => {
      const at = (column) => (column.effect / column.floor / most).toFixed(4);
      property(node.children[1], "--a", at(a));
      property(node.children[1], "--b", at(b));
      property(node.children[1], "--floor", (1 / most).toFixed(4));
      text(node.children[2], `${format.effect(a.effect, kind)} / ${format.effect(b.effect, kind)}`);
    });
  }
}

function facts(models, now) {
  const windows = [...new Set(models.flatMap((model) => model.windows.map((one) => one.window_s)))].sort((a, b) => a - b);
  const each = (name, value) => [name, ...models.map((model) => value(model) ?? format.UNKNOWN)];
  const row = (model, window_s) => model.windows.find((one) => one.window_s === window_s);
  return [
    each("reference", ({ reference }) => reference && `${reference.source}${reference.provisional ? " (provisional)" : ""}`),
    each("its rows", ({ reference }) => reference && `${format.compact(reference.rows)}, ${format.day(reference.created_ms)}, ${reference.hash.slice(0, 8)}`),
    each("newest sample", (model) => `${format.duration(now - model.newest_ms)} ago`),
    ...windows.map((window_s) => each(`drifted in ${format.window(window_s)}`, (model) => {
      const found = row(model, window_s);
      if (!model.columns.length) return found && `${format.compact(found.rows)} rows, not judged yet`;
      return found && `${format.count(found.drifted)} of ${format.count(model.columns.length)}  (${format.compact(found.rows)} rows, ${format.percent(found.sampled_share)} sampled)`;
    })),
    each("volume", ({ quality }) => quality && `${format.compact(quality.volume_per_s)}/s${quality.volume_reference_per_s ? `, usual ${format.compact(quality.volume_reference_per_s)}` : ""}`),
    each("performance", ({ performance }) => {
      const best = performance?.windows.findLast((one) => one.realised !== null);
      return best && `${performance.metric} ${format.number(best.realised)}  [${format.number(best.low)}, ${format.number(best.high)}]`;
    }),
    each("labels", ({ labels }) => labels && `${format.percent(labels.coverage)} of predictions`),
  ];
}

export class Segments {
  constructor({ onColumn }) {
    this.node = byId("segments");
    this.onColumn = onColumn;
    this.body = h("tbody");
    this.hollow = h("p", { class: "hollow", text: "No segments are set (drift.segments)." });
    this.table = h("div", { class: "wide" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ...["segment", "rows", "drifted columns", "worst"].map((name) => h("th", { scope: "col", text: name })))), this.body));
    this.node.append(h("header", { class: "card-head" }, h("h2", { text: "Segments" })), this.table, this.hollow);
  }

  paint(model) {
    hide(this.node, !model);
    const segments = model?.segments ?? [];
    hide(this.hollow, segments.length > 0);
    hide(this.table, !segments.length);
    keyed(this.body, segments, ({ segment }) => segment, ({ segment }) => h("tr", {}, h("th", { scope: "row", text: segment }), h("td", { class: "num" }), h("td"),
      h("td", {}, h("button", { type: "button", class: "as-link" }))), (row, one) => {
      text(row.children[1], format.compact(one.rows));
      text(row.children[2], one.drifted ? `▲ ${format.count(one.drifted)}` : "none");
      row.children[2].classList.toggle("bad", one.drifted > 0);
      const button = row.children[3].firstChild;
      text(button, one.worst || format.UNKNOWN);
      button.disabled = !one.worst;
      button.onclick = () => this.onColumn({ column: one.worst, segment: one.segment });
    });
  }
}
