// Numbers with their units, and texts that cannot play tricks (static/format.js).

const WHOLE = new Intl.NumberFormat("en");
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NONE = "–";

/** 12345 -> "12,345". */
export const count = (n) => (Number.isFinite(n) ? WHOLE.format(Math.round(n)) : NONE);

/** One decimal where it says something: 3.2, 32, 3,200. */
export const rate = (n) => (!Number.isFinite(n) ? NONE : n > 0 && n < 10 ? n.toFixed(1) : count(n));

export function bytes(n) {
  if (!Number.isFinite(n)) return NONE;
  let i = 0;
  for (; n >= 1024 && i < BYTES.length - 1; i++) n /= 1024;
  return `${i && n < 100 ? n.toFixed(1) : count(n)} ${BYTES[i]}`;
}

export const percent = (part) => (Number.isFinite(part) ? `${(100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %` : NONE);

/** Milliseconds as µs, ms or s. */
export function took(ms) {
  if (!Number.isFinite(ms)) return NONE;
  if (ms < 0.9995) return `${Math.round(Math.max(0, ms) * 1000)} µs`;
  return ms < 999.5 ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : duration(ms / 1000);
}

/** 42 -> "42 s", 130 -> "2 min 10 s", 7300 -> "2 h 01 min". */
export function duration(s) {
  if (!Number.isFinite(s)) return NONE;
  s = Math.max(0, s);
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${two((s % 3600) / 60)} min` : `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** "1 page", "12 pages". */
export const many = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** What programs say, with control and direction characters made visible: they could make a line look like another. */
export const plain = (text) => String(text ?? "").replace(UNSEEN, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
