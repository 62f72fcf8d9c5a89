// Throughput, latency, lag and rejects of the pipeline, on one time axis.

import { byId, hide } from "./dom.js";
import { LineChart } from "./charts.js";
import * as format from "./format.js";

const ms = (value) => (value === null || value === undefined ? format.UNKNOWN : `${format.number(value)} ms`);

export class Traffic {
  constructor() {
    this.node = byId("traffic");
    const chart = (title, series, unit) => new LineChart({ title, series, unit, height: 112, sync: "traffic" });
    this.charts = [
      [chart("Throughput", [{ label: "events/s", colour: "--line-1", fill: "--line-1-wash" }]), ["events_per_s"]],
      [chart("Latency", [{ label: "p50", colour: "--line-1", dash: [5, 3], key: "dash", format: format.number }, { label: "p99", colour: "--line-2", format: format.number }], ms), ["latency_p50_ms", "latency_p99_ms"]],
      [chart("Lag", [{ label: "records", colour: "--line-1", fill: "--line-1-wash" }]), ["lag"]],
      [chart("Rejects", [{ label: "rejects/s", colour: "--line-2", fill: "--line-2-wash" }]), ["rejects_per_s"]],
    ];
    for (const [one] of this.charts) {
      one.node.classList.add("card");
      this.node.append(one.node);
    }
  }

  /** One part of the page a chart, so that no frame draws them all. */
  parts(part, current) {
    return this.charts.map(([chart, names]) => part(chart.node, () => {
      const traffic = current()?.traffic;
      if (traffic?.wall_ms?.length) chart.update([traffic.wall_ms, ...names.map((name) => traffic[name] ?? [])]);
    }, { heavy: true }));
  }

  paint(overview) {
    hide(this.node, !overview.traffic?.wall_ms?.length);
  }
}
