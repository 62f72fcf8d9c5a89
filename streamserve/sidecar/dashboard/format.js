// Numbers, times and words as people read them. Unknown is a dash, everywhere.

export const UNKNOWN = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** About three significant digits; thousands are grouped. */
export function number(value, digits = 3) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(1);
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en-GB");
  return String(Number(value.toPrecision(digits)));
}

/** 15840 as 15.8 k. */
export function compact(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit * 0.9995) return `${Number((value / unit).toPrecision(3))} ${name}`;
  }
  return number(value);
}

export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-GB") : UNKNOWN);

export function percent(share, digits = 1) {
  if (!known(share)) return UNKNOWN;
  const value = share * 100;
  if (value !== 0 && Math.abs(value) < 10 ** -digits / 2) return `<${10 ** -digits} %`;
  return `${value.toFixed(Math.abs(value) >= 99.95 || value === 0 ? 0 : digits)} %`;
}

/** A difference of shares, signed, in percentage points. */
export function points(difference) {
  if (!known(difference)) return UNKNOWN;
  const value = difference * 100;
  if (Math.abs(value) < 0.05) return "±0 pt";
  return `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(1)} pt`;
}

/** The size of a change in its own unit. */
export function effect(value, kind) {
  if (!known(value)) return UNKNOWN;
  if (kind === "share") return `${(value * 100).toFixed(value < 0.1 ? 2 : 1)} pt`;
  if (kind === "times") return `${number(value, 2)}× floor`;
  const shown = value < 0.1 ? value.toFixed(3) : value.toFixed(2);
  return kind === "wasserstein" ? `${shown} σ` : `${shown} JS`;
}

export const EFFECT_WORDS = {
  wasserstein: "standard deviations of the reference (Wasserstein distance)",
  share: "percentage points of the rows",
  js: "Jensen-Shannon distance (base 2, 0 to 1)",
};

export const ratio = (value, floor) => {
  if (!known(value) || !floor) return "";
  const times = value / floor;
  return `${times >= 10 ? Math.round(times) : times.toFixed(1)}× floor`;
};

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
export function chance(p) {
  if (!known(p)) return UNKNOWN;
  if (p <= 0) return "below 10⁻³⁰⁰";
  if (p >= 0.001) return number(p, 2);
  const power = Math.floor(Math.log10(p));
  const mantissa = (p / 10 ** power).toFixed(1);
  return `${mantissa} · 10${[...String(power)].map((character) => SUPERSCRIPTS[character]).join("")}`;
}

/** A length of time in its largest unit or two. */
export function duration(ms) {
  if (!known(ms)) return UNKNOWN;
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 10) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  if (hours < 48) return `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

export const window = (seconds) => (seconds < 60 ? `${+seconds.toFixed(1)} s` : seconds < 3600 ? `${+(seconds / 60).toFixed(1)} min` : seconds < 172_800 ? `${+(seconds / 3600).toFixed(1)} h` : `${+(seconds / 86_400).toFixed(1)} days`);

/** Which zone stamps are shown in: undefined for the reader's own. */
let zone;
let formats = new Map();
export function useZone(name) {
  zone = name;
  formats = new Map();
}
export const zoneName = () => zone;

function formatted(name, options, ms) {
  if (!known(ms)) return UNKNOWN;
  let format = formats.get(name);
  if (!format) {
    format = new Intl.DateTimeFormat("en-GB", { ...options, timeZone: zone, hourCycle: "h23" });
    formats.set(name, format);
  }
  return format.format(ms);
}
export const clock = (ms) => formatted("clock", { hour: "2-digit", minute: "2-digit", second: "2-digit" }, ms);
export const minute = (ms) => formatted("minute", { hour: "2-digit", minute: "2-digit" }, ms);
export const day = (ms) => formatted("day", { day: "numeric", month: "short" }, ms);
export const stamp = (ms) => formatted("stamp", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }, ms);

/** Time of day for today, with the day otherwise. */
export const when = (ms, now) => (known(ms) && Math.abs(now - ms) < 20 * 3_600_000 ? minute(ms) : stamp(ms));

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export const REASON_WORDS = {
  data: "feature moved", prediction: "prediction moved", quality: "data quality", concept: "less accurate",
  canary: "canary differs", segment: "segment moved", volume: "volume changed",
};
