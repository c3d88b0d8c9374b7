// What happened: steps, calls, errors, and how fast (static/news.js). Fed by the stream, read by what draws; all of it bounded.

import { Ring } from "./ring.js";

const SPEED_MS = 5000; // what "now" means for a speed
const LATE_MS = 4000;
const [MAX_STEPS, MAX_CALLS, MAX_ERRORS] = [12000, 300, 300];

export class News {
  steps = new Ring(MAX_STEPS); // [number, start, ms, rows, rows of plain requests or null, tokens, whether that is about so]
  calls = new Ring(MAX_CALLS);
  errors = new Ring(MAX_ERRORS);
  ops = new Map(); // call -> [calls, errors, seconds, longest]
  missing = 0;
  #recent = [];
  #shared = null;

  take(told, nowMs) {
    const lastStep = this.steps.at(-1)?.[0] ?? 0; // after a break the server tells again what it still has
    const lastCall = this.calls.at(-1)?.seq ?? 0;
    for (const step of told.steps) if (step[0] > lastStep) this.steps.push(step);
    for (const call of told.calls) if (call.seq > lastCall) this.calls.push(call);
    for (const call of told.errors) if (call.seq > (this.errors.at(-1)?.seq ?? 0)) this.errors.push(call);
    for (const [op, sums] of Object.entries(told.ops)) {
      const all = this.ops.get(op) ?? [0, 0, 0, 0];
      this.ops.set(op, [all[0] + sums[0], all[1] + sums[1], all[2] + sums[2], Math.max(all[3], sums[3])]);
    }
    this.missing += told.missing;
    this.#recent.push({ t: nowMs, ...told.since });
    while (this.#recent.length && this.#recent[0].t < nowMs - SPEED_MS) this.#recent.shift();
  }

  /** How the engine's rows were shared since the last look: steps that do not say it themselves are shared alike, also those
   *  of which we hear late. */
  share({ t_ms, engine }) {
    const before = this.#shared;
    const [plain, all] = [engine.rows_plain ?? 0, (engine.rows_plain ?? 0) + (engine.rows_programs ?? 1)];
    this.#shared = { plain, all };
    if (!before || (all === before.all && engine.rows_programs !== undefined)) return;
    const part = (plain - before.plain) / Math.max(1, all - before.all);
    for (let i = this.steps.length - 1; i >= 0 && this.steps.at(i)[1] + this.steps.at(i)[2] >= t_ms - LATE_MS; i--) {
      const step = this.steps.at(i);
      if (step[4] === null) [step[4], step[6]] = [Math.round(step[3] * part), part > 0 && part < 1];
    }
  }

  /** Of the last seconds. */
  speed(nowMs) {
    const recent = this.#recent.filter((r) => r.t >= nowMs - SPEED_MS);
    const sum = (name) => recent.reduce((all, r) => all + r[name], 0);
    const seconds = SPEED_MS / 1000;
    return {
      tokensPerS: sum("tokens") / seconds,
      stepsPerS: sum("steps") / seconds,
      callsPerS: sum("calls") / seconds,
      busy: Math.min(1, sum("busy_ms") / SPEED_MS),
      meanMs: sum("busy_ms") / sum("steps"),
    };
  }

  /** Another server: what was told of the old one is over. */
  clear() {
    for (const ring of [this.steps, this.calls, this.errors]) ring.clear();
    this.ops.clear();
    this.missing = 0;
    this.#recent = [];
    this.#shared = null;
  }
}
