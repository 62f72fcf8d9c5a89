// Where the data come from: told of news by server-sent events, fetched when there is time for it; polled where a
// stream cannot be had. At most one fetch at a time.

const POLL_MS = 2000;
const STREAM_AGAIN_MS = 30_000;
const SILENT_MS = 50_000; // three beats of the server
const WAIT_MS = 10_000;
const HIDDEN_MS = 10_000;

export class Feed {
  /** `onData(overview)` for every new overview; `onLink(link, error)` when the link changes: live, polling, lost. */
  constructor({ onData, onLink }) {
    this.onData = onData;
    this.onLink = onLink;
    this.link = "connecting";
    this.streaming = false;
    this.refused = false; // a stream was asked for and not had
    this.fetching = false;
    this.wanted = false;
    this.askedAt = -HIDDEN_MS;
    this.failures = 0;
    this.heard = performance.now();
    this.timer = 0;
  }

  start() {
    this.listen();
    this.refresh();
    setInterval(() => this.watch(), 5000);
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    window.addEventListener("online", () => this.reconnect());
    window.addEventListener("offline", () => this.lose("this computer is offline"));
  }

  listen() {
    this.source?.close();
    const source = new EventSource("api/events");
    this.source = source;
    this.heard = performance.now();
    const heard = () => {
      this.heard = performance.now();
      this.streaming = true;
    };
    source.addEventListener("open", heard);
    source.addEventListener("changed", () => {
      heard();
      this.refresh();
    });
    source.addEventListener("beat", () => {
      heard();
      this.refresh(); // ages in the overview go by the server's clock
    });
    source.addEventListener("error", () => {
      this.streaming = false;
      this.refused = true;
      this.refresh();
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.source === source && this.listen(), STREAM_AGAIN_MS);
    });
  }

  /** A connection that died without a word is noticed by its silence. */
  watch() {
    if (this.streaming && performance.now() - this.heard > SILENT_MS) {
      this.streaming = false;
      this.listen();
      this.refresh();
    }
  }

  reconnect() {
    this.listen();
    this.refresh();
  }

  lose(reason) {
    this.streaming = false;
    this.tell("lost", reason);
  }

  tell(link, error = "") {
    if (this.link === link && this.error === error) return;
    this.link = link;
    this.error = error;
    this.onLink(link, error);
  }

  /** Fetch what is new, now or as soon as the fetch under way is done; a hidden page (its title still tells) rarely. */
  async refresh() {
    this.wanted = true;
    if (this.fetching) return;
    clearTimeout(this.timer);
    const rest = document.hidden ? this.askedAt + HIDDEN_MS - performance.now() : 0;
    if (rest > 0) {
      this.timer = setTimeout(() => this.refresh(), rest);
      return;
    }
    this.wanted = false;
    this.fetching = true;
    this.askedAt = performance.now();
    await this.fetch();
    this.fetching = false;
    if (this.wanted) this.refresh();
    else if (!this.streaming) this.timer = setTimeout(() => this.refresh(), Math.min(15_000, POLL_MS * 2 ** Math.min(this.failures, 3)));
  }

  async fetch() {
    let overview;
    try {
      overview = await ask("api/overview");
    } catch (error) {
      this.failures += 1;
      this.tell("lost", error.message);
      return;
    }
    this.failures = 0;
    this.onData(overview);
    this.tell(this.streaming ? "live" : this.refused ? "polling" : "connecting");
  }
}

/** Fetch JSON. Throws an Error whose message says what was wrong; `status` on it when the server answered. */
export async function ask(path) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(WAIT_MS), cache: "no-store" });
  } catch {
    throw new Error("the sidecar does not answer");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const error = new Error(body?.error ?? `the sidecar answered ${response.status}`);
  error.status = response.status;
  throw error;
}
