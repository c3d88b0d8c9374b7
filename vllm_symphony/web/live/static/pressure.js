// Where it is tight: pages, tiers, queue, speed (static/pressure.js). A tile: a number, a meter where there is a most, two minutes of it.

import { el, say, show } from "./dom.js";
import { bytes, count, many, percent, rate, took } from "./format.js";
import { Ring } from "./ring.js";

const LOOKS = 120; // a look is a second
const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH] = [120, 28];

export class Pressure {
  constructor(box) {
    this.tiles = Object.fromEntries(Object.entries(TILES).map(([name, title]) => [name, new Tile(box, title)]));
  }

  /** `speed`: what news said of the last seconds (news.js). */
  show({ room, engine, kernel, queue, policies, running }, speed) {
    const used = room.device_pages - room.device_pages_free;
    const t = this.tiles;
    t.pages.show(used, room.device_pages, count(used), `of ${many(room.device_pages, "page")}`,
      `${count(room.device_pages_free)} free · ${count(engine.evicted)} given up so far`);
    t.host.show(room.host_bytes_used, room.host_bytes, bytes(room.host_bytes_used), `of ${bytes(room.host_bytes)}`,
      engine.host_pages === undefined ? "" : many(engine.host_pages, "page"));
    t.disk.show(room.disk_bytes_used, room.disk_bytes, bytes(room.disk_bytes_used), `of ${bytes(room.disk_bytes)}`,
      `${engine.disk_pages === undefined ? "" : `${many(engine.disk_pages, "page")} · `}${bytes(room.disk_bytes_free)} of the disk free`);
    const waiting = engine.held_now ?? queue?.waiting ?? 0;
    const parked = engine.parked_now ?? 0;
    t.queue.show(waiting + parked, null, count(waiting), "waiting",
      `${count(engine.running ?? queue?.running ?? 0)} in the batch · ${count(parked)} parked now, ${count(engine.parked)} so far · ${count(engine.preempted)} preempted${policies?.process ? ` · by ${policies.process}` : ""}`);
    t.speed.show(speed.tokensPerS, null, rate(speed.tokensPerS), "tokens/s",
      `${rate(speed.stepsPerS)} steps/s · ${took(speed.meanMs)} each · ${percent(speed.busy)} busy`);
    t.programs.show(running, null, count(running), running === 1 ? "process runs" : "processes run",
      `${many(kernel.sessions ?? 0, "session")} · ${many(kernel.calls ?? 0, "call")} in flight · ${rate(speed.callsPerS)} calls/s`);
  }

  clear() {
    for (const tile of Object.values(this.tiles)) tile.past.clear();
  }
}

const TILES = {
  pages: "Device cache", host: "Host memory", disk: "Disk tier", queue: "Queue", speed: "Throughput", programs: "Programs",
};

class Tile {
  constructor(box, title) {
    this.past = new Ring(LOOKS);
    this.value = el("strong");
    this.unit = el("span", { className: "muted" });
    this.fill = el("div");
    this.meter = el("div", { className: "meter", role: "meter", "aria-label": `${title}: part used`, "aria-valuemin": "0", "aria-valuemax": "100", hidden: true }, this.fill);
    this.note = el("p", { className: "note muted" });
    this.line = document.createElementNS(SVG, "polyline");
    const spark = document.createElementNS(SVG, "svg");
    spark.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
    spark.setAttribute("preserveAspectRatio", "none");
    spark.setAttribute("aria-hidden", "true");
    spark.append(this.line);
    box.append(el("article", { className: "tile" }, el("h3", {}, title), el("p", { className: "value" }, this.value, " ", this.unit), this.meter, spark, this.note));
  }

  show(number, most, value, unit, note) {
    say(this.value, value);
    say(this.unit, unit);
    say(this.note, note);
    show(this.meter, Boolean(most));
    if (most) {
      const part = Math.min(1, number / most);
      this.fill.style.width = `${100 * part}%`;
      this.meter.dataset.level = part > 0.95 ? "high" : part > 0.8 ? "warm" : "fine";
      this.meter.setAttribute("aria-valuenow", Math.round(100 * part));
    }
    this.past.push(number);
    const top = most || Math.max(1, ...this.past);
    const points = [...this.past].map((n, i) => `${(WIDE * (LOOKS - this.past.length + i + 1)) / LOOKS},${(HIGH - 1 - ((HIGH - 2) * Math.min(n, top)) / top).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
  }
}
