// Incidents on a line of time, and each with its reasons.

import { attribute, byId, h, hide, icon, keyed, property, text } from "./dom.js";
import * as format from "./format.js";

const DAY_MS = 86_400_000;
const MOST = 50;

export class Incidents {
  constructor({ onColumn }) {
    this.onColumn = onColumn;
    this.node = byId("incidents");
    this.title = h("span", { class: "muted" });
    this.line = h("div", { class: "timeline", "aria-hidden": "true" });
    this.days = h("div", { class: "timeline-days muted", "aria-hidden": "true" });
    this.list = h("ol", { class: "incident-list" });
    this.hollow = h("p", { class: "hollow", text: "No incident so far." });
    this.node.append(h("header", { class: "card-head" }, h("h2", { text: "Incidents" }), this.title), this.line, this.days, this.list, this.hollow);
  }

  paint(overview, now) {
    const incidents = overview.incidents.slice(0, MOST);
    hide(this.node, !incidents.length && overview.state !== "ok" && overview.state !== "alarm");
    hide(this.hollow, incidents.length > 0);
    hide(this.line, !incidents.length);
    hide(this.days, !incidents.length);
    const rate = overview.budget?.false_alarms_per_week;
    text(this.title, rate ? `budget: ${format.number(rate)} false ${rate === 1 ? "alarm" : "alarms"} a week` : "");
    if (incidents.length) this.paintLine(incidents, now);
    keyed(this.list, incidents, ({ id }) => id, () => this.make(), (node, incident) => this.fill(node, incident, now));
  }

  paintLine(incidents, now) {
    const oldest = Math.min(...incidents.map(({ opened_ms }) => opened_ms));
    const days = Math.min(30, Math.max(1, Math.ceil((now - oldest) / DAY_MS + 0.2)));
    const from = now - days * DAY_MS;
    const at = (ms) => Math.max(0, Math.min(1, (ms - from) / (now - from)));
    keyed(this.line, incidents.filter((one) => (one.cleared_ms ?? now) >= from), ({ id }) => id, () => h("i"), (node, one) => {
      attribute(node, "class", `span-${one.severity}${one.cleared_ms === null ? " open" : ""}`);
      property(node, "--from", at(one.opened_ms).toFixed(5));
      property(node, "--to", at(one.cleared_ms ?? now).toFixed(5));
    });
    const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => from + share * (now - from));
    keyed(this.days, marks, (mark, index) => index, () => h("span"), (node, mark, index) => text(node, index === 4 ? "now" : days <= 2 ? format.stamp(mark) : format.day(mark)));
  }

  make() {
    return h("li", { class: "incident" }, h("details", {}, h("summary", {}, icon("alarm"), h("b", { class: "incident-title" }), h("span", { class: "role" }), h("span", { class: "incident-time muted" })),
      h("ul", { class: "reasons" }), h("p", { class: "muted small" })));
  }

  fill(node, incident, now) {
    const details = node.firstChild, [summary, reasons, where] = details.children;
    const isOpen = incident.cleared_ms === null;
    attribute(node, "class", `incident ${incident.severity}${isOpen ? " open" : ""}`);
    if (isOpen && !node.shown) details.open = true;
    node.shown = true;
    attribute(summary.children[0].use, "href", isOpen ? "#i-alarm" : "#i-ok");
    text(summary.children[1], incident.title);
    text(summary.children[2], `${incident.model} ${incident.version} · ${incident.severity}${isOpen ? " · open" : ""}`);
    const length = format.duration((incident.cleared_ms ?? now) - incident.opened_ms);
    text(summary.children[3], isOpen ? `since ${format.when(incident.opened_ms, now)}, ${length}` : `${format.when(incident.opened_ms, now)}, lasted ${length}`);
    keyed(reasons, incident.reasons, ({ kind, column, segment, window_s }) => [kind, column, segment, window_s].join(" "), (reason) =>
      h("li", {}, h("span", { class: "chip-kind", text: format.REASON_WORDS[reason.kind] ?? reason.kind }), " ",
        h("button", { type: "button", class: "as-link", text: reason.column + (reason.segment ? ` in ${reason.segment}` : ""),
          on: { click: () => this.onColumn({ model: incident.model, version: incident.version, column: reason.column, segment: reason.segment, window: String(reason.window_s) }) } }), " ", h("span", { class: "muted" })), (item, reason) =>
      text(item.lastChild, `${format.effect(reason.effect, reason.effect_kind)}${reason.window_s ? ` in ${format.window(reason.window_s)}` : ""}${reason.detail ? `, ${reason.detail}` : ""}${reason.p == null ? "" : `, p = ${format.chance(reason.p)}`}, since ${format.when(reason.since_ms, now)}`));
    const partitions = Object.entries(incident.span?.partitions ?? {}).map(([partition, [first, end]]) => `${partition}: ${format.count(first)} to ${format.count(end)}`);
    text(where, partitions.length ? `${incident.span.topic}, partition ${partitions.join(" · ")}` : "");
  }
}

export class Footer {
  constructor() {
    this.node = byId("footer");
    this.list = h("dl");
    this.node.append(this.list);
  }

  paint(overview) {
    const own = overview.sidecar;
    hide(this.node, !own);
    if (!own) return;
    const facts = [["sidecar", own.version], ["behind", own.behind_s === null ? format.UNKNOWN : format.duration(own.behind_s * 1000)], ["chunks merged", format.count(own.chunks)],
      ["seen twice", format.count(own.skipped)], ["unreadable", format.count(own.bad)], ["late rows", format.count(own.late_rows)], ["rows from the future", format.count(own.future_rows)]];
    keyed(this.list, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", { text: name }), h("dd")), (node, [name, value]) => {
      text(node.children[1], value);
      node.classList.toggle("bad", name === "unreadable" && own.bad > 0);
    });
  }
}
