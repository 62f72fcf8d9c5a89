// What came true: performance, the labels behind it, and what was refused or came in another volume.

import { byId, h, hide, keyed, property, text } from "./dom.js";
import { LineChart } from "./charts.js";
import * as format from "./format.js";

export class Performance {
  constructor() {
    this.node = byId("performance");
    this.title = h("h2", { text: "Performance" });
    this.chart = new LineChart({ title: "Realised and estimated", height: 170, zero: false, unit: (value) => format.number(value, 3),
      series: [{ label: "realised", colour: "--line-1", width: 2 }, { label: "estimated", colour: "--line-2", dash: [5, 3], key: "dash" }] });
    this.body = h("tbody");
    this.note = h("p", { class: "muted small" });
    this.hollow = h("p", { class: "hollow", text: "No labels are read for this version, and no estimate can be made." });
    this.full = h("div", {}, this.chart.node, h("div", { class: "wide" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, ...["window", "realised", "95 % interval", "estimated", "gap", "labels"].map((name) => h("th", { scope: "col", text: name })))), this.body)), this.note);
    this.node.append(h("header", { class: "card-head" }, this.title), this.full, this.hollow);
  }

  paint(model) {
    hide(this.node, !model);
    const performance = model?.performance ?? null;
    hide(this.full, !performance);
    hide(this.hollow, Boolean(performance));
    text(this.title, performance ? `Performance: ${performance.metric}` : "Performance");
    if (!performance) return;
    const { history, baseline } = performance;
    this.chart.update([history.end_ms, history.realised, history.estimated], baseline === null ? {} : { floor: baseline, name: `baseline ${format.number(baseline)}` });
    keyed(this.body, performance.windows, ({ window_s }) => window_s, () => h("tr", {}, h("th", { scope: "row" }), ...Array.from({ length: 5 }, () => h("td", { class: "num" }))), (row, one) => {
      const gap = one.realised === null || one.estimated === null ? null : one.realised - one.estimated;
      const values = [format.window(one.window_s), format.number(one.realised), one.low === null ? format.UNKNOWN : `${format.number(one.low)} to ${format.number(one.high)}`,
        format.number(one.estimated), gap === null ? format.UNKNOWN : `${gap < 0 ? "−" : "+"}${Math.abs(gap).toFixed(3)}`, format.count(one.labels)];
      for (const [index, value] of values.entries()) text(row.children[index], value);
    });
    text(this.note, "Estimated from calibrated probabilities until the labels come, then replaced by what they say.");
  }
}

export class Labels {
  constructor() {
    this.node = byId("labels");
    this.meter = h("i", { class: "meter big" });
    this.share = h("b", { class: "big-number" });
    this.list = h("dl", { class: "statistics" });
    this.full = h("div", {}, h("p", { class: "coverage" }, this.share, h("span", { class: "muted", text: " of predictions have their label" })), this.meter, this.list);
    this.hollow = h("p", { class: "hollow", text: "No labels are read (drift.labels). Without them accuracy is not known, only estimated." });
    this.node.append(h("header", { class: "card-head" }, h("h2", { text: "Labels" })), this.full, this.hollow);
  }

  paint(model) {
    hide(this.node, !model);
    const labels = model?.labels ?? null;
    hide(this.full, !labels);
    hide(this.hollow, Boolean(labels));
    if (!labels) return;
    text(this.share, format.percent(labels.coverage));
    property(this.meter, "--share", String(labels.coverage ?? 0));
    const facts = [["half of them within", format.duration(labels.delay_p50_s * 1000)], ["99 % within", format.duration(labels.delay_p99_s * 1000)],
      ["joined", format.count(labels.joined)], ["predictions waiting", format.count(labels.waiting)], ["without a prediction", format.count(labels.unmatched)],
      ["twice", format.count(labels.duplicate)], ["malformed", format.count(labels.malformed)]];
    keyed(this.list, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", { text: name }), h("dd")), (node, [, value]) => text(node.children[1], value));
  }
}

export class Quality {
  constructor() {
    this.node = byId("quality");
    this.volume = h("p", { class: "coverage" }, h("b", { class: "big-number" }), h("span", { class: "muted" }));
    this.list = h("div", { class: "cats" });
    this.hollow = h("p", { class: "hollow", text: "Nothing was refused." });
    this.node.append(h("header", { class: "card-head" }, h("h2", { text: "Data quality" })), this.volume, h("h3", { text: "Refused rows, by reason" }), this.list, this.hollow);
  }

  paint(model) {
    const quality = model?.quality ?? null;
    hide(this.node, !quality);
    if (!quality) return;
    const usual = quality.volume_reference_per_s;
    text(this.volume.children[0], `${format.compact(quality.volume_per_s)}/s`);
    text(this.volume.children[1], usual ? ` events, ${Math.round((quality.volume_per_s / usual) * 100)} % of the usual ${format.compact(usual)}` : " events; what is usual is not known yet");
    const rejects = [...quality.rejects].sort((a, b) => b.share - a.share).slice(0, 8);
    const most = Math.max(1e-9, ...rejects.map(({ share }) => share));
    hide(this.hollow, rejects.length > 0);
    keyed(this.list, rejects, ({ feature, reason }) => `${feature} ${reason}`, ({ feature, reason }) => h("div", { class: "cat one" }, h("span", { class: "cat-name", text: `${reason.replaceAll("_", " ")}${feature ? ` · ${feature}` : ""}`, title: feature }),
      h("span", { class: "cat-bars" }, h("i", { class: "now" })), h("span", { class: "num" })), (node, { share }) => {
      property(node.children[1].firstChild, "--share", String(share / most));
      text(node.children[2], format.percent(share, 2));
    });
  }
}
