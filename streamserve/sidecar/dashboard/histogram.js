// Reference against now: as a distribution over the values, as the change per bin, or as bars per category.

import { h, hide, keyed, property, s, text, attribute, className } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 190;
const PAD = { left: 8, right: 8, top: 10, bottom: 24 };
const SPECIAL = new Set(["(other)", "(unseen)", "(missing)", "(not finite)"]);

export class Histogram {
  constructor() {
    this.mode = "values";
    this.cells = [];
    this.rest = [];
    this.was = s("path", { class: "was" });
    this.now = s("path", { class: "now" });
    this.line = s("path", { class: "now-line" });
    this.gains = s("path", { class: "gain" });
    this.losses = s("path", { class: "loss" });
    this.hover = s("rect", { class: "hover", y: PAD.top, height: HEIGHT - PAD.top - PAD.bottom });
    this.base = s("line", { class: "base", y1: HEIGHT - PAD.bottom, y2: HEIGHT - PAD.bottom });
    this.scale = s("g", { class: "ticks" }, s("text", { x: PAD.left, y: PAD.top + 9 }), s("text", { x: PAD.left, y: HEIGHT - PAD.bottom - 3 }));
    this.ticks = s("g", { class: "ticks" });
    this.svg = s("svg", { class: "hist", height: HEIGHT, role: "img" },
      this.was, this.now, this.line, this.gains, this.losses, this.base, this.ticks, this.scale, this.hover);
    this.readout = h("p", { class: "hist-read muted" });
    this.bars = h("div", { class: "cats" });
    this.specials = h("div", { class: "specials" });
    this.body = h("tbody");
    this.table = h("details", { class: "as-table", on: { toggle: () => this.fillTable() } }, h("summary", { text: "as a table" }),
      h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ...["cell", "reference", "now", "change"].map((name) => h("th", { text: name, scope: "col" })))), this.body));
    this.modes = h("div", { class: "choice", role: "group", "aria-label": "How to draw" },
      ...[["values", "distribution"], ["change", "change per bin"]].map(([mode, label]) =>
        h("button", { type: "button", data: { mode }, text: label, on: { click: () => this.choose(mode) } })));
    this.legend = h("div", { class: "legend" }, h("span", { class: "key key-was", text: "reference" }), h("span", { class: "key key-now", text: "now" }));
    this.node = h("div", { class: "histogram" }, h("div", { class: "hist-head" }, this.legend, this.modes), this.svg, this.bars, this.readout, this.specials, this.table);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  choose(mode) {
    this.mode = mode;
    this.draw();
  }

  update(column) {
    this.numeric = column.kind === "numeric";
    this.cells = column.cells.filter((cell) => !isSpecial(cell, this.numeric));
    this.rest = column.cells.filter((cell) => isSpecial(cell, this.numeric) && (cell.reference > 0 || cell.current > 0));
    this.narrow = this.numeric && !plottable(this.cells);
    attribute(this.svg, "aria-label", describe(column));
    this.draw();
    this.fillTable(column);
  }

  draw() {
    hide(this.node, !this.cells.length && !this.rest.length);
    if (!this.cells.length) return;
    const asBars = !this.numeric || this.narrow;
    hide(this.bars, !asBars);
    attribute(this.svg, "hidden", !(!asBars));
    hide(this.modes, asBars);
    hide(this.readout, asBars);
    const change = this.mode === "change" && !asBars;
    text(this.legend.children[0], change ? "fewer than the reference" : "reference");
    text(this.legend.children[1], change ? "more" : "now");
    className(this.legend, "change-legend", change);
    for (const button of this.modes.children) attribute(button, "aria-pressed", String(button.dataset.mode === this.mode));
    if (asBars) this.drawBars();
    else this.drawBins(this.node.clientWidth);
    this.drawSpecials();
  }

  drawBins(width) {
    if (!width) return;
    attribute(this.svg, "width", width);
    attribute(this.base, "x1", PAD.left);
    attribute(this.base, "x2", width - PAD.right);
    const inner = width - PAD.left - PAD.right;
    const values = this.mode === "values";
    this.boxes = values ? valueBoxes(this.cells) : evenBoxes(this.cells);
    const from = this.boxes[0].from, to = this.boxes.at(-1).to;
    this.x = (value) => PAD.left + ((value - from) / (to - from)) * inner;
    for (const [path, on] of [[this.was, values], [this.now, values], [this.line, values], [this.gains, !values], [this.losses, !values], [this.scale, !values]]) attribute(path, "visibility", on ? null : "hidden");
    if (values) this.drawDensity();
    else this.drawChange();
    this.drawTicks(values, from, to, inner);
    if (this.pointed === undefined) this.point(null);
  }

  drawDensity() {
    const heights = this.boxes.flatMap((box) => [box.was, box.now]).sort((a, b) => a - b);
    const top = Math.min(heights.at(-1), heights[Math.floor(heights.length * 0.93)] * 1.5) || 1;
    const floor = HEIGHT - PAD.bottom;
    const y = (density) => floor - (Math.min(density, top) / top) * (floor - PAD.top);
    const steps = (key) => this.boxes.map((box) => `${point(this.x(box.from), y(box[key]))}L${point(this.x(box.to), y(box[key]))}`).join("L");
    const start = point(this.x(this.boxes[0].from), floor), end = point(this.x(this.boxes.at(-1).to), floor);
    attribute(this.was, "d", `M${start}L${steps("was")}L${end}Z`);
    attribute(this.now, "d", `M${start}L${steps("now")}L${end}Z`);
    attribute(this.line, "d", `M${start}L${steps("now")}L${end}`);
    attribute(this.base, "y1", floor);
    attribute(this.base, "y2", floor);
  }

  drawChange() {
    const most = Math.max(0.005, ...this.cells.map((cell) => Math.abs(cell.current - cell.reference)));
    const middle = (PAD.top + HEIGHT - PAD.bottom) / 2, room = (HEIGHT - PAD.bottom - PAD.top) / 2;
    const signed = this.cells.map((cell) => cell.current - cell.reference);
    text(this.scale.children[0], signed[0] < 0 ? format.points(most) : "");
    text(this.scale.children[1], signed[0] < 0 ? "" : format.points(-most));
    let gains = "", losses = "";
    for (const box of this.boxes) {
      const change = box.cell.current - box.cell.reference;
      const left = this.x(box.from) + 1, right = this.x(box.to) - 1, y = middle - (change / most) * room;
      const bar = `M${point(left, middle)}H${right.toFixed(1)}V${y.toFixed(1)}H${left.toFixed(1)}Z`;
      if (change >= 0) gains += bar;
      else losses += bar;
    }
    attribute(this.gains, "d", gains);
    attribute(this.losses, "d", losses);
    attribute(this.base, "y1", middle);
    attribute(this.base, "y2", middle);
  }

  drawTicks(values, from, to, inner) {
    const finite = this.cells.map((cell) => cell.high).filter((high) => high !== null);
    const marks = values
      ? nice(from, to, Math.max(2, Math.floor(inner / 90))).map((value) => ({ at: this.x(value), label: format.number(value) }))
      : finite.map((high, index) => ({ at: this.x(index + 1), label: format.number(high), index })).filter(({ index }) => index % Math.ceil((finite.length * 70) / inner) === 0);
    keyed(this.ticks, marks, (mark, index) => index, () => s("text", { y: HEIGHT - 7, "text-anchor": "middle" }), (node, mark) => {
      attribute(node, "x", Math.max(14, Math.min(inner - 4, mark.at)).toFixed(1));
      text(node, mark.label);
    });
  }

  point(at) {
    this.pointed = at;
    const box = at === null || !this.boxes ? null : this.boxes.find((one) => at >= this.x(one.from) && at <= this.x(one.to));
    attribute(this.hover, "visibility", box ? null : "hidden");
    if (!box) {
      text(this.readout, "Point at a bin to read it. The outer bins are open.");
      return;
    }
    attribute(this.hover, "x", this.x(box.from).toFixed(1));
    attribute(this.hover, "width", Math.max(1, this.x(box.to) - this.x(box.from)).toFixed(1));
    const { label, reference, current } = box.cell;
    text(this.readout, `${label}: reference ${format.percent(reference)}, now ${format.percent(current)} (${format.points(current - reference)})`);
  }

  drawBars() {
    const most = Math.max(0.01, ...this.cells.flatMap((cell) => [cell.reference, cell.current]));
    keyed(this.bars, this.cells, (cell) => cell.label, makeBar, (node, cell) => updateBar(node, cell, most));
  }

  drawSpecials() {
    keyed(this.specials, this.rest, (cell) => cell.label, () => h("span", { class: "special" }, h("b"), " ", h("span"), " ", h("em")), (node, cell) => {
      const change = cell.current - cell.reference;
      text(node.children[0], cell.label.slice(1, -1));
      text(node.children[1], `${format.percent(cell.reference, 2)} → ${format.percent(cell.current, 2)}`);
      text(node.children[2], Math.abs(change) < 0.0005 ? "" : format.points(change));
      className(node, "moved", Math.abs(change) >= 0.005);
    });
  }

  fillTable(column = this.column) {
    this.column = column;
    if (!this.table.open || !column) return;
    keyed(this.body, column.cells, (cell, index) => index, () => h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), h("td")), (row, cell) => {
      const shown = [cell.label, format.percent(cell.reference, 2), format.percent(cell.current, 2), format.points(cell.current - cell.reference)];
      for (const [index, value] of shown.entries()) text(row.children[index], value);
    });
  }
}

const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function isSpecial(cell, numeric) {
  return SPECIAL.has(cell.label) || (numeric && cell.low === null && cell.high === null);
}

/** Bins of positive width, more than a few: else bars by label say more. */
function plottable(cells) {
  const inner = cells.filter((cell) => cell.low !== null && cell.high !== null);
  return inner.length >= 6 && inner.every((cell) => cell.high > cell.low);
}

/** Boxes over the values; an open outer bin is drawn as wide as its neighbour's density suggests. */
function valueBoxes(cells) {
  const edges = cells.filter((cell) => cell.low !== null && cell.high !== null);
  const all = edges.at(-1).high - edges[0].low;
  return cells.map((cell) => {
    let { low: from, high: to } = cell;
    const near = from === null ? edges[0] : edges.at(-1);
    const dense = near.reference / (near.high - near.low) || 1;
    const width = Math.min(all * 0.3, Math.max(all * 0.02, (1.6 * cell.reference) / dense));
    if (from === null) from = to - width;
    if (to === null) to = from + width;
    return { cell, from, to, was: cell.reference / (to - from), now: cell.current / (to - from) };
  });
}

const evenBoxes = (cells) => cells.map((cell, index) => ({ cell, from: index, to: index + 1 }));

/** About `wanted` round numbers between two. */
function nice(from, to, wanted) {
  const raw = (to - from) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(from / step) * step; value <= to; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function makeBar(cell) {
  return h("div", { class: "cat" }, h("span", { class: "cat-name", title: cell.label }), h("span", { class: "cat-bars" }, h("i", { class: "was" }), h("i", { class: "now" })),
    h("span", { class: "num" }), h("span", { class: "num cat-change" }));
}

function updateBar(node, cell, most) {
  const [name, bars, share, change] = node.children;
  text(name, cell.label);
  property(bars.children[0], "--share", String(cell.reference / most));
  property(bars.children[1], "--share", String(cell.current / most));
  text(share, format.percent(cell.current));
  text(change, format.points(cell.current - cell.reference));
  className(node, "moved", Math.abs(cell.current - cell.reference) >= 0.005);
}

function describe(column) {
  const moves = column.cells.map((cell) => ({ label: cell.label, change: cell.current - cell.reference }))
    .sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 3);
  return `Histogram of ${column.name}, reference against now. Largest changes: ${moves.map((move) => `${move.label} ${format.points(move.change)}`).join(", ")}`;
}
