// The page's beginning: builds the parts, feeds them, and keeps choice and address together.

import { byId, className, hide, text, attribute } from "./dom.js";
import * as format from "./format.js";
import { restyle } from "./charts.js";
import { Columns } from "./columns.js";
import { Detail } from "./detail.js";
import { Feed } from "./feed.js";
import { Footer, Incidents } from "./incidents.js";
import { Labels, Performance, Quality } from "./outcomes.js";
import { Painter } from "./paint.js";
import { wholeOverview } from "./shape.js";
import { Traffic } from "./traffic.js";
import { Segments, Versions } from "./versions.js";
import { age, headline, Tabs, Verdict } from "./verdict.js";
import { View } from "./view.js";

const THEMES = ["auto", "light", "dark"];
const NARROW = matchMedia("(max-width: 900px)");

class App {
  constructor() {
    this.overview = null;
    this.heardAt = 0;
    this.view = new View(() => this.turned());
    const onColumn = (choice) => this.goTo(choice);
    this.columns = new Columns({ view: this.view, onChoose: (column, opened) => this.choose(column, opened) });
    this.detail = new Detail({ view: this.view, onView: (changes) => this.pick(changes), onBack: () => this.back() });
    this.verdict = new Verdict({ onColumn });
    this.tabs = new Tabs({ onVersion: (model, version) => this.view.set({ model, version, segment: "", window: "" }, { push: true }) });
    this.traffic = new Traffic();
    this.versions = new Versions({ onColumn });
    this.segments = new Segments({ onColumn });
    this.incidents = new Incidents({ onColumn });
    this.performance = new Performance();
    this.labels = new Labels();
    this.quality = new Quality();
    this.footer = new Footer();
    this.painter = new Painter();
    this.parts();
    this.switches();
    this.feed = new Feed({ onData: (overview) => this.take(overview), onLink: (link, error) => this.linked(link, error) });
  }

  parts() {
    const part = (node, paint) => this.painter.part(node, () => this.overview && paint(this.overview, this.chosen, this.now()));
    part(byId("verdict"), (overview, model, now) => this.verdict.paint(overview, model, now));
    part(byId("tabs"), (overview, model) => this.tabs.paint(overview, model));
    part(byId("columns"), (overview, model, now) => {
      hide(byId("split"), !overview.models.length);
      className(byId("split"), "bare", !model?.columns.length);
      this.columns.paint(model, now, overview);
    });
    part(byId("detail"), (overview, model, now) => this.detail.paint(overview, model, now));
    this.detail.parts(this.painter);
    this.traffic.parts((node, paint, how) => this.painter.part(node, paint, how), () => this.overview);
    part(byId("versions"), (overview, model, now) => this.versions.paint(overview, model, now));
    part(byId("performance"), (overview, model) => this.performance.paint(model));
    part(byId("labels"), (overview, model) => this.labels.paint(model));
    part(byId("segments"), (overview, model) => this.segments.paint(model));
    part(byId("quality"), (overview, model) => this.quality.paint(model));
    part(byId("incidents"), (overview, model, now) => this.incidents.paint(overview, now));
    part(byId("footer"), (overview) => this.footer.paint(overview));
  }

  /** Event time goes by the server's clock, which goes on between two answers. */
  now() {
    const { now_ms, wall_ms } = this.overview; // in a replay, now is where the stream is
    return (now_ms ?? wall_ms) + (performance.now() - this.heardAt);
  }

  take(overview) {
    if (this.overview === null) {
      this.painter.onDone = () => {
        performance.mark("interactive");
        this.painter.onDone = () => {};
      };
    }
    const version = overview.sidecar?.version;
    if (this.version && version && version !== this.version) location.reload(); // another release's page
    this.version = version;
    this.overview = wholeOverview(overview);
    this.heardAt = performance.now();
    this.settle();
    this.traffic.paint(this.overview);
    this.painter.all();
  }

  /** What the reader's choice means for these data. */
  settle() {
    const { overview, view } = this;
    this.chosen = view.model_of(overview);
    this.detail.kinds = new Map((this.chosen?.columns ?? []).map((column) => [column.name, column.effect_kind]));
    if (!view.column && !NARROW.matches && this.chosen?.columns.length) view.column = this.chosen.columns.reduce((a, b) => (a.rank < b.rank ? a : b)).name;
    attribute(document.body, "data-state", overview.state);
    text(byId("pipeline"), overview.pipeline);
    const mark = { alarm: "▲ ", error: "✕ ", stale: "◔ " }[overview.state] ?? "";
    document.title = `${mark}${headline(overview, this.now())} · ${overview.pipeline}`;
    const file = { ok: "ok", alarm: "alarm", stale: "stale", error: "error" }[overview.state] ?? "loading";
    attribute(byId("favicon"), "href", `icons/${file}.svg`);
    this.sayLink();
  }

  linked(link, error) {
    attribute(document.body, "data-link", link);
    this.lostAt = link === "lost" ? (this.lostAt ?? Date.now()) : null;
    this.error = error;
    this.sayLink();
  }

  sayLink() {
    const { link } = this.feed ?? { link: "connecting" };
    const old = this.overview ? age(this.overview, this.now()) : null;
    text(byId("link"), { connecting: "connecting", live: "live", polling: "polling", lost: "not connected" }[link]);
    hide(byId("fresh"), old === null || link === "lost");
    text(byId("age"), format.duration(old));
    const banner = byId("banner");
    hide(banner, link !== "lost");
    if (link !== "lost") return;
    text(banner, this.overview
      ? `Connection lost: ${this.error}. What you see is from ${format.clock(this.overview.wall_ms)}, ${format.duration(performance.now() - this.heardAt)} old. Trying again.`
      : `Nothing can be shown: ${this.error}. Trying again.`);
    if (!this.overview) {
      text(byId("verdict-title"), "No data");
      text(byId("verdict-message"), "Either the sidecar is not running, or it failed; then its log says why.");
    }
  }

  choose(column, opened) {
    const open = opened && NARROW.matches;
    if (open) this.left = { top: scrollY, list: byId("rows").scrollTop };
    this.view.set({ column: column.name, window: "", segment: "" }, { push: open });
    if (open) {
      scrollTo(0, 0);
      this.detail.focusing = true;
    }
  }

  goTo(choice) {
    this.view.set({ window: "", segment: "", ...choice }, { push: true });
    this.columns.reveal(choice.column);
    if (NARROW.matches) scrollTo(0, 0);
    else byId("split").scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  pick(changes) {
    const { window, segment } = this.detail;
    this.view.set({ window: window.value, segment: segment.value, ...changes });
  }

  back() {
    this.view.set({ column: "", window: "", segment: "" }, { push: true });
    if (this.left) {
      byId("rows").scrollTop = this.left.list;
      scrollTo(0, this.left.top);
    }
    byId("rows").focus({ preventScroll: true });
  }

  turned() {
    className(document.body, "one-column", this.view.column !== "");
    if (!this.overview) return;
    this.settle();
    this.painter.all();
  }

  switches() {
    const themed = () => {
      text(byId("theme-name"), document.documentElement.dataset.theme ?? "auto");
      this.restyle();
    };
    byId("theme").addEventListener("click", () => {
      const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
      if (next === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      keep("theme", next);
      themed();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
    NARROW.addEventListener("change", () => {
      this.view.read(); // a column that was chosen for the reader does not fill a narrow screen
      this.restyle();
      this.turned();
    });
    const zoned = (utc) => {
      format.useZone(utc ? "UTC" : undefined);
      text(byId("zone"), utc ? "UTC" : "local time");
      this.restyle();
      this.painter.all();
    };
    byId("zone").addEventListener("click", () => {
      const utc = format.zoneName() === undefined;
      keep("zone", utc ? "utc" : "local");
      zoned(utc);
    });
    zoned(kept("zone") === "utc");
    themed();
    document.addEventListener("keydown", (event) => this.key(event));
  }

  restyle() {
    restyle();
    this.columns.restyle();
  }

  key(event) {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId("search").focus();
    }
    if (event.key === "Escape" && NARROW.matches && this.view.column) this.back();
  }

  start() {
    this.turned();
    this.feed.start();
    setInterval(() => {
      if (!this.overview || document.hidden) return;
      this.sayLink();
      if (this.feed.link === "lost" || this.overview.state === "stale") this.painter.all(); // ages grow by themselves
    }, 1000);
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`streamserve.${name}`, value);
  } catch {
    return; // storage may be forbidden: the choice lasts as long as the page
  }
}

function kept(name) {
  try {
    return localStorage.getItem(`streamserve.${name}`);
  } catch {
    return null;
  }
}

new App().start();
