// The engine's steps, as they ran (static/timeline.js).
//
//     rows  |  ███   ██  ████       height: rows of programs, plain requests on top; width: how long the step took
//     tokens|  ▂█▂   ▁▂  ▂▂▂▁       below: tokens that it computed, by their logarithm
//            -60 s            now
//
// Each column of pixels shows its fullest step, so a thousand steps a second are one drawing, whose cost is its width.

import { byId } from "./dom.js";
import { count, duration, took } from "./format.js";

const SPANS_S = [10, 60, 300];
const FRAME_MS = 100;
const STILL_MS = 1000; // for who asked for less motion
const UNKNOWN = -1; // whose rows they were
const [LEFT, BOTTOM, TOKENS, GAP] = [34, 18, 0.24, 8]; // CSS pixels; TOKENS: a part of the height

export class Timeline {
  spanS = 60;
  #chosen = null;
  #drawnMs = 0;

  /** `now`: the server's time in ms. */
  constructor(canvas, readout, steps, now) {
    Object.assign(this, { canvas, readout, steps, now });
    this.pen = canvas.getContext("2d");
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    canvas.addEventListener("pointermove", (e) => this.#choose(this.#at(e.offsetX)));
    canvas.addEventListener("pointerleave", () => this.#choose(null));
    canvas.addEventListener("keydown", (e) => this.#key(e));
    const frame = () => {
      const ms = performance.now();
      if (!this.isFrozen && !canvas.closest("[hidden]") && ms - this.#drawnMs >= (this.still.matches ? STILL_MS : FRAME_MS)) this.draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Buttons that choose how much time is shown. */
  offer(fieldset, el) {
    for (const s of SPANS_S) {
      const radio = el("input", { type: "radio", name: "span", value: String(s), checked: s === this.spanS, onchange: () => { this.spanS = s; this.draw(); } });
      fieldset.append(el("label", {}, radio, el("span", {}, s < 60 ? `${s} s` : `${s / 60} min`)));
    }
  }

  draw() {
    this.#drawnMs = performance.now();
    const { canvas, pen } = this;
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(high * scale)) {
      canvas.width = Math.round(wide * scale);
      canvas.height = Math.round(high * scale);
    }
    const area = { left: LEFT, wide: wide - LEFT, rows: (high - BOTTOM) * (1 - TOKENS) - GAP, top: 6, high: high - BOTTOM };
    const colors = this.#colors();
    const columns = this.#columns(Math.max(1, Math.round(area.wide * scale)));
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, wide, high);
    this.#grid(area, columns, colors);
    if (columns.num) this.#bars(area, columns, colors, scale);
    else this.#empty(area, colors);
    this.#mark(area, colors);
    canvas.setAttribute("aria-label", this.#told(columns));
    byId("timeline-both").hidden = !columns.hasUnknown;
  }

  /** What each column of pixels shows: its fullest step, and the tokens of all that began in it. */
  #columns(n) {
    const found = { n, rows: new Uint16Array(n), plain: new Int32Array(n), tokens: new Float64Array(n), maxRows: 0, maxTokens: 0, num: 0 };
    const end = this.now();
    const start = end - this.spanS * 1000;
    const at = (ms) => Math.floor(((ms - start) / (end - start)) * n);
    for (let i = this.steps.length - 1; i >= 0; i--) {
      const [, t, ms, rows, plain, tokens] = this.steps.at(i);
      if (t + ms < start) break;
      if (t > end) continue;
      const first = Math.max(0, at(t));
      const last = Math.min(n - 1, Math.max(first, at(t + ms) - 2)); // a gap of two shows where one ends
      for (let x = first; x <= last; x++) {
        if (rows > found.rows[x]) [found.rows[x], found.plain[x]] = [rows, plain ?? UNKNOWN];
      }
      found.tokens[Math.min(first, n - 1)] += tokens;
      for (let x = first + 1; x <= last; x++) found.tokens[x] = Math.max(found.tokens[x], tokens);
      found.maxRows = Math.max(found.maxRows, rows);
      found.hasUnknown ||= plain === null;
      found.num += 1;
    }
    for (const tokens of found.tokens) found.maxTokens = Math.max(found.maxTokens, tokens);
    return found;
  }

  #grid(area, columns, colors) {
    const { pen } = this;
    const top = ceiling(columns.maxRows);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colors.muted;
    pen.strokeStyle = colors.line;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const rows of top > 1 ? [top, top / 2, 0] : [top, 0]) {
      const y = Math.round(area.top + (area.rows - area.top) * (1 - rows / top)) + 0.5;
      line(pen, area.left, y, area.left + area.wide, y);
      pen.fillText(count(rows), area.left - 6, y);
    }
    pen.textBaseline = "alphabetic";
    const parts = this.spanS === 10 ? 5 : area.wide > 480 ? 6 : 3;
    for (let i = 0; i <= parts; i++) {
      const x = area.left + (area.wide * i) / parts;
      const ago = Math.round((this.spanS * (parts - i)) / parts);
      pen.textAlign = i === parts ? "right" : i === 0 ? "left" : "center";
      pen.fillText(i === parts ? "now" : `−${ago < 60 ? `${ago} s` : `${Math.floor(ago / 60)}${ago % 60 ? `:${ago % 60}` : ""} min`}`, x, area.high + BOTTOM - 4);
    }
  }

  #empty(area, colors) {
    this.pen.fillStyle = colors.muted;
    this.pen.font = "14px system-ui, sans-serif";
    this.pen.textAlign = "center";
    this.pen.fillText("The engine had nothing to compute.", area.left + area.wide / 2, (area.top + area.rows) / 2);
  }

  #bars(area, columns, colors, scale) {
    const { pen } = this;
    const top = ceiling(columns.maxRows);
    const high = area.rows - area.top;
    const low = area.high - area.rows - GAP;
    const one = 1 / scale;
    for (let x = 0; x < columns.n; x++) {
      const [rows, plain, tokens] = [columns.rows[x], columns.plain[x], columns.tokens[x]];
      const left = area.left + x / scale;
      if (rows) {
        pen.fillStyle = plain === UNKNOWN ? colors.both : colors.programs;
        pen.fillRect(left, area.rows - (high * rows) / top, one, (high * rows) / top);
      }
      if (plain > 0) {
        pen.fillStyle = colors.plain;
        pen.fillRect(left, area.rows - (high * rows) / top, one, (high * plain) / top);
      }
      if (tokens) {
        pen.fillStyle = colors.tokens;
        const tall = Math.max(1, (low * Math.log2(1 + tokens)) / Math.log2(1 + columns.maxTokens)); // a prompt has a thousand, a token one
        pen.fillRect(left, area.high - tall, one, tall);
      }
    }
  }

  #mark(area, colors) {
    if (!this.#chosen) return;
    const [, t, ms] = this.#chosen;
    const end = this.now();
    const x = (at) => area.left + area.wide * (1 - (end - at) / (this.spanS * 1000));
    if (x(t) < area.left) return this.#choose(null);
    this.pen.strokeStyle = colors.text;
    this.pen.lineWidth = 1.5;
    this.pen.strokeRect(x(t) - 1, area.top - 2, Math.max(2, x(t + ms) - x(t)) + 1, area.high - area.top + 2);
    this.readout.textContent = this.#words(this.#chosen);
  }

  #choose(step) {
    this.#chosen = step ?? null;
    this.readout.textContent = step ? this.#words(step) : "Point at a step, or use the arrow keys.";
  }

  #words([number, t, ms, rows, plain, tokens, isAbout]) {
    const shares = plain === null ? "" : ` (${isAbout ? "about " : ""}${count(plain)} of plain requests)`;
    return `step ${count(number)}: ${took(ms)}, ${count(rows)} row${rows === 1 ? "" : "s"}${shares}, ${count(tokens)} token${tokens === 1 ? "" : "s"}, ${duration((this.now() - t) / 1000)} ago`;
  }

  #told(columns) {
    const s = this.steps.at(-1);
    return `Batch timeline of the last ${duration(this.spanS)}: ${count(columns.num)} steps, at most ${count(columns.maxRows)} rows in one.${s ? ` Last: ${this.#words(s)}` : ""}`;
  }

  /** The step that is nearest to a place. */
  #at(x) {
    const part = (x - LEFT) / Math.max(1, this.canvas.clientWidth - LEFT);
    const ms = this.now() - this.spanS * 1000 * (1 - part);
    let best = null;
    let least = this.spanS * 10; // a hundredth of what is shown
    for (let i = this.steps.length - 1; i >= 0; i--) {
      const s = this.steps.at(i);
      const far = ms < s[1] ? s[1] - ms : Math.max(0, ms - s[1] - s[2]);
      if (far < least) [best, least] = [s, far];
      if (s[1] + s[2] < ms - least) break;
    }
    return best;
  }

  #key(e) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.key === "Escape") this.#choose(null);
    if (!by || !this.steps.length) return;
    e.preventDefault();
    let i = this.steps.length - 1;
    if (this.#chosen) {
      while (i > 0 && this.steps.at(i)[0] > this.#chosen[0]) i--;
      i = Math.min(this.steps.length - 1, Math.max(0, i + by));
    }
    this.#choose(this.steps.at(i));
  }

  #colors() {
    const style = getComputedStyle(this.canvas);
    return Object.fromEntries(["text", "muted", "line", "programs", "plain", "both", "tokens"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
  }
}

/** A round number at or above. */
function ceiling(n) {
  let top = 1;
  while (top < n) top *= 2;
  return top;
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}
