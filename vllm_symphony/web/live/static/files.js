// Files by tier (static/files.js): where the pages of named files lie. Asked for now and then: a large tree is dear to list.

import { byId, el, Rows, say, show } from "./dom.js";
import { count, duration, many, plain } from "./format.js";
import { json, Refused } from "./link.js";

const [EVERY_MS, COST, TYPING_MS, MOST] = [5000, 20, 400, 300]; // at most a twentieth of the time is spent listing
const TIERS = {
  "": ["anywhere", () => true],
  device: ["on the device", (f) => f.device_pages],
  host: ["in host memory", (f) => f.host_pages],
  disk: ["on disk", (f) => f.disk_pages],
  none: ["not computed", (f) => !f.device_pages && !f.host_pages && !f.disk_pages],
};

export class Files {
  #timer = 0;
  #found = { files: [], total: 0 };

  constructor(token, now) {
    this.token = token;
    this.now = now;
    this.rows = new Rows(byId("files").querySelector("tbody"), this.#columns(), (f) => f.path);
    this.tier = byId("files-tier");
    if (!this.tier.options.length) this.tier.append(...Object.entries(TIERS).map(([value, [word]]) => el("option", { value }, word)));
    this.tier.onchange = () => this.#draw();
    byId("files-path").oninput = () => this.#again(TYPING_MS);
  }

  start() {
    this.isOn = true;
    this.#again(0);
  }

  stop() {
    this.isOn = false;
    clearTimeout(this.#timer);
  }

  #again(ms) {
    clearTimeout(this.#timer);
    if (this.isOn) this.#timer = setTimeout(() => this.#look(), ms);
  }

  async #look() {
    const began = performance.now();
    const path = byId("files-path").value.trim() || "/";
    try {
      const found = await json(`api/files?limit=${MOST}&path=${encodeURIComponent(path)}`, this.token);
      if (!this.isOn) return;
      this.#found = found;
      say(byId("files-error"), "");
    } catch (error) {
      if (error instanceof Refused) {
        this.#found = { files: [], total: 0 };
        say(byId("files-error"), error.message);
      }
    }
    this.#draw();
    this.#again(Math.max(EVERY_MS, COST * (performance.now() - began)));
  }

  #draw() {
    const { files, total } = this.#found;
    const shown = files.filter(TIERS[this.tier.value][1]);
    this.rows.show(shown);
    say(byId("files-count"), total > files.length ? `the first ${count(files.length)} of ${many(total, "file")}, by name` : many(total, "file"));
    show(byId("files").querySelector(".empty"), !shown.length);
  }

  #columns() {
    return [
      { isHead: true, className: "path", text: (f) => plain(f.path) },
      { className: "text", text: (f) => plain(f.owner) },
      { className: "num", text: (f) => count(f.length) },
      { className: "num", text: (f) => count(f.pages) },
      { className: "tiers", show: tiers },
      { text: (f) => f.fidelity + (f.stale ? ", stale" : "") },
      { text: (f) => [f.durable, f.pinned && "pinned", f.locked && `locked (${f.locked})`, f.busy && "busy"].filter(Boolean).join(", ") },
      { className: "num", text: (f) => count(f.open) },
      { className: "num", text: (f) => duration((this.now() - f.modified_ms) / 1000) },
    ];
  }
}

/** A bar of three parts, and the numbers. */
function tiers(cell, f) {
  const parts = [f.device_pages, f.host_pages, f.disk_pages];
  if (!cell.firstChild) {
    const bar = el("div", { className: "bar", "aria-hidden": "true" }, ...["device", "host", "disk"].map((tier) => el("i", { className: tier })));
    cell.append(bar, el("span", { className: "num" }));
  }
  const all = Math.max(1, f.pages, parts[0] + parts[1] + parts[2]);
  parts.forEach((n, i) => (cell.firstChild.children[i].style.width = `${(100 * n) / all}%`));
  say(cell.lastChild, parts.map(count).join(" · "));
  cell.title = `${many(parts[0], "page")} on the device, ${count(parts[1])} in host memory, ${count(parts[2])} on disk`;
}
