// The columns ranked by drift: searched, filtered, and only as many rows in the page as one can see.

import { attribute, byId, className, h, hide, icon, keyed, property, text } from "./dom.js";
import { spark, token } from "./charts.js";
import * as format from "./format.js";

const SPARE = 4; // rows above and below the visible ones
const REORDER_MS = 5000;
const SPARKS = 6; // drawn in one frame
const FILTERS = [
  ["all", "all", () => true],
  ["drifted", "drifted", (column) => column.drifted],
  ["output", "outputs", (column) => column.origin === "output"],
  ["missing", "missing changed", (column) => Math.abs(column.missing - column.missing_reference) >= 0.005],
];

export class Columns {
  /** `onChoose(column, opened)`: a row was chosen; `opened` when by a press and not by the arrow keys. */
  constructor({ view, onChoose }) {
    this.view = view;
    this.onChoose = onChoose;
    this.box = byId("rows");
    this.runway = byId("runway");
    this.columns = [];
    this.shown = [];
    this.order = new Map();
    this.orderedAt = 0;
    this.stale = new Map(); // rows whose sparkline is out of date
    this.active = "";
    this.tools();
    this.room = 0; // height of the box and how far it is scrolled, as last seen: reading them while drawing costs a layout
    this.top = 0;
    this.box.addEventListener("scroll", () => {
      this.top = this.box.scrollTop;
      this.soon(true);
    }, { passive: true });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("click", (event) => this.press(event));
    for (const event of ["pointerenter", "pointerleave", "focus", "blur"]) this.box.addEventListener(event, () => this.holding());
    new ResizeObserver(([entry]) => {
      this.room = entry.contentRect.height;
      this.top = this.box.scrollTop;
      this.soon(true);
    }).observe(this.box);
    this.restyle();
  }

  tools() {
    this.search = byId("search");
    this.search.addEventListener("input", () => {
      this.view.search = this.search.value.trim().toLowerCase();
      this.box.scrollTop = 0;
      this.sift();
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.box.focus();
      if (event.key === "Escape") {
        this.search.value = "";
        this.search.dispatchEvent(new Event("input"));
      }
    });
    byId("filters").append(...FILTERS.map(([name, label]) => h("button", {
      type: "button", text: label, data: { filter: name },
      on: { click: () => {
        this.view.filter = name;
        this.box.scrollTop = 0;
        this.sift();
      } },
    })));
  }

  restyle() {
    this.colours = { line: token("--line-soft"), above: token("--alarm"), floor: token("--ink-faint") };
    for (const row of this.runway.children) row.drawn = null;
    this.rowHeight = Number.parseFloat(token("--row"));
    this.sparkSize = [Number.parseFloat(token("--spark-width")), Number.parseFloat(token("--spark-height"))];
    this.soon(true);
  }

  /** Show a model version's columns. */
  paint(model, now, overview) {
    this.now = now;
    const another = this.model !== model?.version + model?.model;
    this.model = model?.version + model?.model;
    this.columns = model?.columns ?? [];
    this.state = overview.state;
    const drifted = this.columns.filter((column) => column.drifted).map((column) => column.name).sort().join();
    const news = drifted !== this.drifted && !this.here();
    this.drifted = drifted;
    if (another || news || !this.held() || this.columns.length !== this.order.size) this.rank(another);
    this.byName = new Map(this.columns.map((column) => [column.name, column]));
    this.sift();
  }

  /** Rows do not move under a pointer or while keys are used in the list... */
  here() {
    return this.box.matches(":hover") || document.activeElement === this.box;
  }

  /** ...and elsewhere every few seconds, or when a column begins or ends to drift. */
  held() {
    return this.here() || performance.now() - this.orderedAt < REORDER_MS;
  }

  rank(anew) {
    this.order = new Map([...this.columns].sort((a, b) => a.rank - b.rank).map((column, index) => [column.name, index]));
    this.orderedAt = performance.now();
    if (anew) this.box.scrollTop = 0;
  }

  holding() {
    const here = this.here();
    hide(byId("columns-held"), !here || this.columns.length < 2);
    if (here || !this.columns.length) return;
    this.rank(false);
    this.sift();
  }

  sift() {
    const { search, filter } = this.view;
    const passes = FILTERS.find(([name]) => name === filter)[2];
    this.shown = this.columns.filter((column) => passes(column) && (!search || column.name.toLowerCase().includes(search)));
    this.shown.sort((a, b) => (this.order.get(a.name) ?? 1e9) - (this.order.get(b.name) ?? 1e9));
    for (const button of byId("filters").children) attribute(button, "aria-pressed", String(button.dataset.filter === filter));
    const none = this.shown.length === 0;
    hide(byId("rows-empty"), !none);
    hide(this.box, none);
    if (none) text(byId("rows-empty"), this.hollow());
    const drifted = this.shown.filter((column) => column.drifted).length;
    const of = this.shown.length === this.columns.length ? "" : ` of ${format.count(this.columns.length)}`;
    text(byId("columns-count"), none ? "" : `${format.count(this.shown.length)}${of} columns, ${format.count(drifted)} drifted`);
    this.lay();
  }

  hollow() {
    if (this.columns.length) return this.view.search ? `No column is named like “${this.search.value}”.` : "No column is like that now.";
    return this.state === "learning"
      ? "The reference is being learned from live traffic. Columns are ranked as soon as it is complete."
      : "No column is known yet.";
  }

  soon(moved = false) {
    this.moved ||= moved;
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.moved) this.lay();
      else this.drawSome();
    });
  }

  /** Put the rows where the scrolling wants them, reusing their nodes. */
  lay() {
    this.moved = false;
    const height = this.rowHeight;
    property(this.runway, "height", `${this.shown.length * height}px`);
    const { room, top } = this;
    if (!room) return;
    const first = Math.max(0, Math.floor(top / height) - SPARE);
    const last = Math.min(this.shown.length, Math.ceil((top + room) / height) + SPARE);
    const visible = this.shown.slice(first, last).map((column, offset) => ({ column, index: first + offset }));
    keyed(this.runway, visible, ({ column }) => column.name, () => this.makeRow(), (row, { column, index }) => this.fill(row, column, index));
    this.drawSome();
    attribute(this.box, "aria-activedescendant", visible.some(({ column }) => column.name === this.active) ? "row-active" : null);
  }

  makeRow() {
    const canvas = h("canvas", { class: "spark", "aria-hidden": "true" });
    const row = h("div", { class: "row", role: "option" }, icon("ok"),
      h("span", { class: "name" }, h("b"), h("small", { class: "muted" })), canvas,
      h("span", { class: "change" }, h("b"), h("small", { class: "muted" }), h("i", { class: "meter" })),
      h("span", { class: "num missing" }), h("span", { class: "num since" }));
    row.canvas = canvas;
    return row;
  }

  fill(row, column, index) {
    const [mark, name, , change, missing, since] = row.children;
    const chosen = column.name === this.view.column;
    property(row, "transform", `translateY(${index * this.rowHeight}px)`);
    row.dataset.name = column.name;
    attribute(row, "id", column.name === this.active ? "row-active" : null);
    attribute(row, "aria-selected", String(chosen));
    attribute(row, "aria-setsize", this.shown.length);
    attribute(row, "aria-posinset", index + 1);
    attribute(row, "aria-label", spoken(column, this.now));
    className(row, "drifted", column.drifted);
    className(row, "active", column.name === this.active);
    attribute(mark.use, "href", column.drifted ? "#i-alarm" : "#i-ok");
    text(name.children[0], column.name);
    text(name.children[1], [column.origin === "output" ? "output" : "", column.kind === "numeric" ? "" : "categorical", format.window(column.window_s), column.segment].filter(Boolean).join(" · "));
    text(change.children[0], format.effect(column.effect, column.effect_kind));
    text(change.children[1], format.ratio(column.effect, column.floor));
    property(change.children[2], "--share", String(Math.min(1, column.effect / column.floor / 8).toFixed(3)));
    text(missing, format.percent(column.missing));
    className(missing, "moved", Math.abs(column.missing - column.missing_reference) >= 0.005);
    text(since, column.since_ms === null ? "" : format.duration(this.now - column.since_ms));
    const wanted = `${column.spark?.length} ${column.spark?.at(-1)} ${column.spark?.[0]} ${column.floor}`;
    if (row.drawn !== wanted) this.stale.set(row, { column, wanted });
  }

  /** Draw some of the sparklines that are not up to date; the rest in the next frames. */
  drawSome() {
    let left = SPARKS;
    for (const [row, { column, wanted }] of this.stale) {
      if (left === 0) {
        this.soon();
        return;
      }
      this.stale.delete(row);
      if (!row.isConnected) continue;
      spark(row.canvas, this.sparkSize, column.spark, column.floor, this.colours);
      row.drawn = wanted;
      left -= 1;
    }
  }

  press(event) {
    const row = event.target.closest(".row");
    if (row) this.choose(row.dataset.name, true);
  }

  choose(name, opened) {
    this.active = name;
    const column = this.byName.get(name);
    if (column) this.onChoose(column, opened);
    this.lay();
  }

  key(event) {
    const at = this.shown.findIndex((column) => column.name === (this.active || this.view.column));
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight) - 1);
    const last = this.shown.length - 1;
    const target = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (at >= 0) this.choose(this.shown[at].name, true);
      return;
    }
    if (target === undefined || last < 0) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(last, target));
    const top = index * this.rowHeight;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.rowHeight > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + this.rowHeight - this.box.clientHeight;
    this.choose(this.shown[index].name, false);
  }

  /** Bring a column into sight that was chosen elsewhere. */
  reveal(name) {
    this.active = name;
    const index = this.shown.findIndex((column) => column.name === name);
    if (index < 0) return;
    const top = index * this.rowHeight;
    if (top < this.box.scrollTop || top + this.rowHeight > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = Math.max(0, top - 2 * this.rowHeight);
    this.lay();
  }
}

function spoken(column, now) {
  const state = column.drifted ? `drifted for ${format.duration(now - (column.since_ms ?? now))}` : "no drift";
  return `${column.name}, ${state}, changed by ${format.effect(column.effect, column.effect_kind)}, ${format.ratio(column.effect, column.floor)}, missing ${format.percent(column.missing)}`;
}
