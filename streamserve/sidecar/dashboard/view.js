// What the reader looks at: version, column, window, segment, search. Kept in the address, so that a view can be sent.

const KEYS = ["model", "version", "column", "window", "segment"];

export class View {
  constructor(onChange) {
    this.onChange = onChange;
    this.search = "";
    this.filter = "all";
    this.read();
    globalThis.addEventListener("hashchange", () => {
      this.read();
      this.onChange();
    });
  }

  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) this[key] = given.get(key) ?? "";
  }

  /** Change some of it. `push`: the browser's back button leads back from here. */
  set(changes, { push = false } = {}) {
    Object.assign(this, changes);
    const wanted = new URLSearchParams();
    for (const key of KEYS) if (this[key] !== "") wanted.set(key, this[key]);
    const hash = `#${wanted}`;
    if (hash !== location.hash) {
      if (push) history.pushState(null, "", hash);
      else history.replaceState(null, "", hash);
    }
    this.onChange();
  }

  /** The chosen model version, else the most important one. */
  model_of(overview) {
    const models = overview?.models ?? [];
    return (
      models.find((model) => model.model === this.model && model.version === this.version) ??
      models.find((model) => model.role === "stable") ??
      models[0] ??
      null
    );
  }
}
