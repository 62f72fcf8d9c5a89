// When things are drawn: once a frame at most, only what is on the screen, and no more in one frame than fits.

const FRAME_MS = 2; // of the 16 that a frame has: what follows from it (layout, paint) takes several times that
const MARGIN = "300px";

export class Painter {
  constructor() {
    this.parts = [];
    this.onDone = () => {}; // called when everything that is on the screen is drawn
    this.asked = false;
    this.seen = new IntersectionObserver((entries) => this.look(entries), { rootMargin: MARGIN });
  }

  /**
   * Draw `node` with `paint` whenever it is dirty and on the screen; `heavy` (a canvas): nothing else in that frame.
   * Returns a function that makes it dirty.
   */
  part(node, paint, { heavy = false } = {}) {
    const part = { node, paint, heavy, dirty: true, visible: true };
    this.parts.push(part);
    this.seen.observe(node);
    return () => {
      part.dirty = true;
      this.ask();
    };
  }

  /** All parts are dirty. */
  all() {
    for (const part of this.parts) part.dirty = true;
    this.ask();
  }

  look(entries) {
    for (const entry of entries) {
      const part = this.parts.find((candidate) => candidate.node === entry.target);
      // a part that is hidden has no size and never meets the screen: it is painted so that it can show itself
      part.visible = entry.isIntersecting || entry.boundingClientRect.height === 0;
    }
    this.ask();
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => this.frame());
  }

  frame() {
    this.asked = false;
    const until = performance.now() + FRAME_MS;
    for (const part of this.parts) {
      if (!part.dirty || !part.visible) continue;
      if (performance.now() > until) {
        this.ask();
        return;
      }
      part.dirty = false;
      part.paint();
      if (part.heavy) {
        this.ask();
        return;
      }
    }
    this.onDone();
  }
}
