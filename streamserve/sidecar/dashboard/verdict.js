// The answer to "is anything wrong, since when, which version", in one look.

import { attribute, byId, h, hide, icon, keyed, text } from "./dom.js";
import * as format from "./format.js";

export const open = (overview) => overview.incidents.filter((incident) => incident.cleared_ms === null);

/** The one sentence on top. */
export function headline(overview, now) {
  const names = (models) => [...new Set(models)].join(" and ");
  const all = names(overview.models.map((model) => `${model.model} ${model.version}`));
  switch (overview.state) {
    case "alarm": {
      const hit = open(overview).map((incident) => `${incident.model} ${incident.version}`);
      const drifted = overview.models.filter((model) => model.columns.some((column) => column.drifted));
      return `Drift in ${names(hit.length ? hit : drifted.map((model) => `${model.model} ${model.version}`)) || all}`;
    }
    case "ok":
      return all ? `All quiet in ${all}` : "All quiet";
    case "learning":
      return "Learning what is normal";
    case "stale":
      return `No samples for ${format.duration(age(overview, now))}`;
    case "error":
      return "The monitor cannot do its work";
    default:
      return "Waiting for the first samples";
  }
}

/** Milliseconds since the newest sample, or null when there is none. */
export function age(overview, now) {
  const newest = Math.max(...overview.models.map((model) => model.newest_ms ?? 0), 0);
  return newest ? Math.max(0, now - newest) : null;
}

export class Verdict {
  constructor({ onColumn }) {
    this.onColumn = onColumn;
    this.title = byId("verdict-title");
    this.since = byId("verdict-since");
    this.message = byId("verdict-message");
    this.reasons = byId("verdict-reasons");
    this.figures = byId("verdict-figures");
  }

  paint(overview, model, now) {
    text(this.title, headline(overview, now));
    attribute(byId("verdict-icon"), "href", `#i-${overview.state}`);
    const since = overview.state_since_ms;
    text(this.since, since === null ? "" : `since ${format.when(since, now)}, for ${format.duration(now - since)}`);
    text(this.message, overview.message);
    this.paintReasons(overview);
    this.paintFigures(overview, model);
    hide(byId("empty"), overview.state !== "empty");
  }

  paintReasons(overview) {
    const chosen = open(overview).flatMap((incident) => incident.reasons.map((reason) => ({ ...reason, incident })));
    const reasons = overview.state === "alarm" || overview.state === "stale" ? chosen.slice(0, 6) : [];
    hide(this.reasons, !reasons.length);
    keyed(this.reasons, reasons, ({ incident, kind, column, segment }) => [incident.id, kind, column, segment].join(" "), ({ incident, column, segment, window_s }) =>
      h("button", { class: "chip", type: "button", on: { click: () => this.onColumn({ model: incident.model, version: incident.version, column, segment, window: String(window_s) }) } },
        h("span", { class: "chip-kind" }), h("b"), h("span", { class: "chip-effect" })), (node, reason) => {
      text(node.children[0], format.REASON_WORDS[reason.kind] ?? reason.kind);
      text(node.children[1], reason.column + (reason.segment ? ` in ${reason.segment}` : ""));
      text(node.children[2], format.effect(reason.effect, reason.effect_kind));
    });
  }

  paintFigures(overview, model) {
    const traffic = overview.traffic, last = (name) => traffic?.[name]?.findLast((value) => value !== null);
    const drifted = model?.columns.filter((column) => column.drifted).length ?? null;
    const volume = model?.quality?.volume_reference_per_s ? model.quality.volume_per_s / model.quality.volume_reference_per_s : null;
    const windows = model?.performance?.windows ?? [];
    const measured = windows.findLast((one) => one.realised !== null) ?? windows.at(-1);
    const known = model?.columns.length > 0;
    const figures = [
      { name: "columns drifted", value: format.count(known ? drifted : null), of: model ? `of ${format.count(model.columns.length)}` : "", bad: drifted > 0 },
      { name: "events a second", value: format.compact(last("events_per_s")), of: volume === null ? "" : `${Math.round(volume * 100)} % of usual` },
      { name: "latency p99", value: traffic ? `${format.number(last("latency_p99_ms"))} ms` : format.UNKNOWN, of: traffic ? `p50 ${format.number(last("latency_p50_ms"))} ms` : "" },
      { name: model?.performance?.metric ?? "performance", value: format.number(measured?.realised ?? measured?.estimated ?? null), of: measured ? `${measured.realised === null ? "estimated, " : ""}${format.window(measured.window_s)}` : "" },
    ].filter(({ value }) => value !== format.UNKNOWN);
    keyed(this.figures, figures, ({ name }) => name, () => h("div", { class: "figure" }, h("dt"), h("dd", {}, h("b"), h("span", { class: "muted" }))), (node, figure) => {
      text(node.children[0], figure.name);
      text(node.children[1].children[0], figure.value);
      text(node.children[1].children[1], figure.of);
      node.classList.toggle("bad", Boolean(figure.bad));
    });
  }
}

/** Tabs of the model versions. */
export class Tabs {
  constructor({ onVersion }) {
    this.node = byId("tabs");
    this.onVersion = onVersion;
  }

  paint(overview, model) {
    const models = overview.models;
    hide(this.node, !models.length);
    keyed(this.node, models, (one) => `${one.model}/${one.version}`, (one) =>
      h("button", { type: "button", class: "tab", on: { click: () => this.onVersion(one.model, one.version) } },
        h("b", { text: `${one.model} ${one.version}` }), h("span", { class: "role" }), h("span", { class: "tab-state" }, icon("ok"), h("span"))), (node, one) => {
      attribute(node, "aria-current", one === model ? "true" : null);
      text(node.children[1], one.role);
      const drifted = one.columns.filter((column) => column.drifted).length;
      const learning = !one.columns.length;
      attribute(node.children[2].children[0].use, "href", learning ? "#i-learning" : drifted ? "#i-alarm" : "#i-ok");
      node.children[2].classList.toggle("learning", learning);
      text(node.children[2].children[1], learning ? "learning" : drifted ? `${drifted} drifted` : "no drift");
      node.children[2].classList.toggle("bad", drifted > 0);
    });
  }
}
