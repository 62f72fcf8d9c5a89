// Lines over time (uPlot, with the page's own colours and readout) and sparklines.

import { h, hide, text } from "./dom.js";
import * as format from "./format.js";

const tokens = new Map();

/** A colour or length of the style. Asking the style anew would cost a layout, so it is remembered until `restyle`. */
export function token(name) {
  if (!tokens.has(name)) tokens.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return tokens.get(name);
}

const alive = new Set();

/** Draw everything again: the theme or the time zone is another one. */
export function restyle() {
  tokens.clear();
  for (const chart of alive) chart.rebuild();
}

/**
 * One chart with a heading that shows the latest values, or those under the pointer.
 *
 * `series`: [{ label, colour (a token), above (another one over the floor), format, dash, width, fill }]; `height` in
 * pixels; `sync`: charts of one name share their cursor; `zero`: the scale begins at 0; `unit`: how values are written.
 */
export class LineChart {
  constructor({ title, series, height = 120, sync = "", zero = true, unit = format.compact }) {
    this.settings = { series, height, sync, zero, unit };
    this.data = null;
    this.marks = { floor: null, spans: [] };
    this.readout = h("span", { class: "readout" });
    this.values = series.map((one) => {
      const value = h("b", { text: format.UNKNOWN });
      const name = h("span", { class: `key key-${one.key ?? "line"}`, data: { colour: one.colour } }, one.label);
      this.readout.append(h("span", { class: "value" }, name, value));
      return value;
    });
    this.title = title;
    this.heading = h("span", { class: "chart-title", text: title });
    this.plot = h("div", { class: "plot" });
    this.plot.style.height = `${height}px`;
    this.hollow = h("p", { class: "hollow", hidden: true, text: "nothing yet" });
    this.node = h("figure", { class: "chart", "aria-label": title },
      h("figcaption", {}, this.heading, this.readout), this.plot, this.hollow);
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.plot);
    alive.add(this);
  }

  /** Show `columns`: [times in ms, values, ...]. `marks`: { floor, spans: [[from, to]] }. */
  update(columns, marks = {}) {
    const count = columns[0]?.length ?? 0;
    hide(this.hollow, count > 0);
    const before = this.data;
    this.marks = { floor: null, spans: [], ...marks };
    this.data = columns;
    if (!this.chart) this.rebuild();
    else if (!before || !same(before, columns)) this.chart.setData(columns);
    this.read();
  }

  resize() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width) return;
    if (!this.chart) this.rebuild();
    else if (width !== this.chart.width) this.chart.setSize({ width, height: this.settings.height });
  }

  rebuild() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width || !this.data?.[0]?.length) return;
    this.chart?.destroy();
    this.chart = new globalThis.uPlot(this.options(width), this.data, this.plot);
    this.read();
  }

  options(width) {
    const { series, height, sync, zero, unit } = this.settings;
    const axis = {
      stroke: token("--muted"), font: `11px ${token("--font")}`, ticks: { show: false },
      grid: { stroke: token("--grid"), width: 1 },
    };
    const zone = format.zoneName();
    return {
      width, height, ms: 1, legend: { show: false }, padding: [8, 6, 0, 0],
      tzDate: (ms) => (zone ? globalThis.uPlot.tzDate(new Date(ms), zone) : new Date(ms)),
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, ...(sync ? { sync: { key: sync } } : {}) },
      scales: { y: { range: (chart, low, high) => range(low, high, zero, this.marks.floor) } },
      axes: [
        { ...axis, size: 24, space: 52, values: (chart, splits) => splits.map((ms) => format.minute(ms)) },
        { ...axis, size: 46, space: 28, gap: 4, values: (chart, splits) => splits.map(unit) },
      ],
      series: [{}, ...series.map((one) => ({
        label: one.label, stroke: one.above ? (chart) => this.split(chart, token(one.colour), token(one.above)) : token(one.colour), width: one.width ?? 1.5, dash: one.dash, spanGaps: false,
        fill: one.fill ? token(one.fill) : undefined, points: { show: false },
      }))],
      hooks: { setCursor: [() => this.read()], drawClear: [(chart) => this.under(chart)], draw: [(chart) => this.over(chart)] },
    };
  }

  /** One colour under the floor, another above. */
  split(chart, under, above) {
    const { top, height } = chart.bbox;
    const at = this.marks.floor === null ? Number.NaN : (chart.valToPos(this.marks.floor, "y", true) - top) / height;
    if (!(at > 0 && at < 1)) return at >= 1 ? above : under;
    const gradient = chart.ctx.createLinearGradient(0, top, 0, top + height);
    for (const [place, colour] of [[0, above], [at, above], [at, under], [1, under]]) gradient.addColorStop(place, colour);
    return gradient;
  }

  /** Spans behind the lines: when it drifted. */
  under(chart) {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.fillStyle = token("--alarm-wash");
    for (const [from, to] of this.marks.spans) {
      const left = Math.max(bbox.left, chart.valToPos(from, "x", true));
      const right = Math.min(bbox.left + bbox.width, chart.valToPos(to, "x", true));
      if (right > left) ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    }
    ctx.restore();
  }

  /** The floor, and its name. */
  over(chart) {
    if (this.marks.floor === null) return;
    const { ctx, bbox } = chart;
    const dots = devicePixelRatio;
    const y = Math.round(chart.valToPos(this.marks.floor, "y", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = token("--ink-soft");
    ctx.setLineDash([5 * dots, 4 * dots]);
    ctx.lineWidth = dots;
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    const name = this.marks.name ?? "floor";
    ctx.font = `${11 * dots}px ${token("--font")}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    ctx.globalAlpha = 0.8;
    ctx.fillStyle = token("--surface");
    ctx.fillRect(bbox.left + 2 * dots, y - 17 * dots, ctx.measureText(name).width + 6 * dots, 15 * dots);
    ctx.globalAlpha = 1;
    ctx.fillStyle = token("--ink-soft");
    ctx.fillText(name, bbox.left + 5 * dots, y - 3 * dots);
    ctx.restore();
  }

  read() {
    if (!this.data) return;
    const times = this.data[0];
    const index = this.chart?.cursor?.idx ?? null;
    text(this.heading, index === null ? this.title : format.stamp(times[index]));
    for (const [place, node] of this.values.entries()) {
      const column = this.data[place + 1] ?? [];
      const shown = index === null ? latest(column) : column[index];
      text(node, (this.settings.series[place].format ?? this.settings.unit)(shown));
    }
  }

  destroy() {
    this.sized.disconnect();
    this.chart?.destroy();
    alive.delete(this);
  }
}

function latest(column) {
  for (let index = column.length - 1; index >= 0; index -= 1) if (column[index] !== null) return column[index];
  return null;
}

/** Whether two sets of columns would look the same: same ends. */
function same(before, after) {
  const last = after[0].length - 1;
  return before[0].length === after[0].length && before[0][0] === after[0][0] && before[0][last] === after[0][last]
    && after.every((column, place) => column[last] === before[place]?.[last] && column[0] === before[place]?.[0]);
}

function range(low, high, zero, floor) {
  if (low === null || high === null) return [0, 1];
  if (zero) {
    const top = Math.max(high, (floor ?? 0) * 1.3);
    return [0, top > 0 ? top * 1.08 : 1];
  }
  const bottom = Math.min(low, floor ?? low), top = Math.max(high, floor ?? high);
  const room = (top - bottom || Math.abs(top) || 1) * 0.15;
  return [bottom - room, top + room];
}

/** Draw a sparkline of `size` [width, height]: the line, its floor dashed, bold where it is above. */
export function spark(canvas, [width, height], values, floor, colours) {
  const dots = devicePixelRatio;
  if (canvas.width !== Math.round(width * dots)) {
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(dots, 0, 0, dots, 0, 0);
  ctx.clearRect(0, 0, width, height);
  if (!values?.length) return;
  const top = Math.max(floor * 1.6, ...values);
  const x = (index) => 1 + (index / Math.max(1, values.length - 1)) * (width - 6);
  const y = (value) => height - 2 - (value / top) * (height - 5);
  ctx.strokeStyle = colours.floor;
  ctx.lineWidth = 1;
  ctx.setLineDash([2, 3]);
  ctx.beginPath();
  ctx.moveTo(0, Math.round(y(floor)) + 0.5);
  ctx.lineTo(width, Math.round(y(floor)) + 0.5);
  ctx.stroke();
  ctx.setLineDash([]);
  const trace = () => {
    ctx.beginPath();
    for (const [index, value] of values.entries()) ctx.lineTo(x(index), y(value ?? 0));
  };
  trace();
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = 1.25;
  ctx.stroke();
  const last = values[values.length - 1] ?? 0;
  if (Math.max(...values) > floor) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, 0, width, y(floor));
    ctx.clip();
    trace();
    ctx.strokeStyle = colours.above;
    ctx.lineWidth = 2;
    ctx.stroke();
    ctx.restore();
  }
  ctx.fillStyle = last > floor ? colours.above : colours.line;
  ctx.beginPath();
  ctx.arc(x(values.length - 1), y(last), 2.4, 0, 7);
  ctx.fill();
}
