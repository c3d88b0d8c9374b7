// The process tree (static/processes.js): children below who spawned them.

import { byId, el, Rows, say, show } from "./dom.js";
import { bytes, count, duration, many, plain } from "./format.js";

export class Processes {
  /** `open(pid)`: somebody wants to see more of it. */
  constructor(open, now) {
    this.now = now;
    this.open = open;
    this.rows = new Rows(byId("processes").querySelector("tbody"), this.#columns(), (row) => row.p.pid, (row) => {
      row.addEventListener("click", () => open(row.item.p.pid));
    });
    for (const id of ["processes-ended", "processes-filter"]) byId(id).addEventListener("input", () => this.glance && this.#draw());
  }

  show(glance) {
    this.glance = glance;
    this.#draw();
  }

  get(pid) {
    return this.glance?.processes.find((p) => p.pid === pid);
  }

  /** Mark the row that the panel shows. */
  mark(pid) {
    this.marked = pid;
    for (const row of this.rows.body.rows) row.classList.toggle("chosen", row.item?.p.pid === pid);
  }

  focus(pid) {
    this.rows.get(pid)?.querySelector("button").focus();
  }

  #draw() {
    const { processes, running, ended } = this.glance;
    const words = byId("processes-filter").value.trim().toLowerCase();
    const withEnded = byId("processes-ended").checked;
    const wanted = processes.filter((p) => (withEnded || !p.exit) && (!words || `${p.pid} ${p.name} ${p.principal}`.toLowerCase().includes(words)));
    this.rows.show(tree(wanted));
    this.mark(this.marked);
    const left = running + ended - processes.length;
    say(byId("processes-count"), `${count(running)} running, ${count(ended)} ended${left > 0 ? `; ${count(left)} older ones are not shown` : ""}`);
    show(byId("processes").querySelector(".empty"), !wanted.length);
  }

  #columns() {
    const usage = (name) => ({ className: "num", text: ({ p }) => count(p.usage[name]) });
    return [
      { isHead: true, className: "tree", show: (cell, row) => this.#name(cell, row) },
      { show: state },
      { className: "text", text: ({ p }) => plain(p.principal) },
      { className: "num", text: ({ p }) => duration(((p.ended_ms ?? this.now()) - p.started_ms) / 1000) },
      { className: "num", text: ({ p }) => duration(p.usage.device_s) },
      usage("tokens_in"),
      usage("tokens_out"),
      { className: "num", text: ({ p }) => count(p.pages) },
      { className: "num", text: ({ p }) => (p.memory_bytes ? bytes(p.memory_bytes) : "–") },
      { className: "text", text: ({ p }) => p.waiting.map(plain).join(", ") || "–" },
    ];
  }

  #name(cell, { p, branch }) {
    if (!cell.firstChild) {
      const button = el("button", { type: "button", className: "link" });
      button.setAttribute("aria-controls", "panel");
      cell.append(el("span", { className: "branch", "aria-hidden": "true" }), el("span", { className: "hidden" }), button);
    }
    const [lines, said, button] = cell.children;
    say(lines, branch);
    say(said, branch ? `child of ${p.parent}: ` : "");
    say(button, `${p.pid} ${plain(p.name) || "(no name)"}`);
  }
}

/** [{p, branch}]: each below its parent; one whose parent is not shown stands at the root. */
export function tree(processes) {
  const known = new Set(processes.map((p) => p.pid));
  const below = new Map();
  for (const p of processes) {
    const parent = known.has(p.parent) ? p.parent : null;
    below.set(parent, [...(below.get(parent) ?? []), p]);
  }
  const rows = [];
  const rest = (below.get(null) ?? []).map((p) => [p, "", ""]).reverse();
  while (rest.length) {
    const [p, branch, under] = rest.pop();
    rows.push({ p, branch });
    const mine = below.get(p.pid) ?? [];
    for (let i = mine.length - 1; i >= 0; i--) {
      const isLast = i === mine.length - 1;
      rest.push([mine[i], `${under}${isLast ? "└─ " : "├─ "}`, `${under}${isLast ? "   " : "│  "}`]);
    }
  }
  return rows;
}

/** A state in words, with a colour beside it. */
function state(cell, { p }) {
  const word = stateOf(p);
  cell.className = "state";
  cell.dataset.state = p.exit ? (p.exit.code ? "failed" : "ended") : p.state;
  say(cell, word);
}

export function stateOf(p) {
  if (p.exit) return p.exit.code ? `exit ${p.exit.code} (${plain(p.exit.reason)})` : "exit 0";
  return p.kind === "session" && !p.connected ? `${p.state}, away` : p.state;
}

export const kindOf = (p) => [p.kind === "session" ? "session" : p.runtime || p.kind, many(p.threads, "thread")].join(", ");
