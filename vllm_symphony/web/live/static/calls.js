// Which calls are made most, which take longest, which fail (static/calls.js).

import { byId, el, Rows, say, show } from "./dom.js";
import { count, duration, many, percent, plain, took } from "./format.js";

const MOST = 40;
const COLUMNS = {
  op: ["Call", (r) => plain(r.op)],
  calls: ["Calls", (r) => count(r.calls)],
  errors: ["Errors", (r) => (r.errors ? `${count(r.errors)} (${percent(r.errors / r.calls)})` : "0")],
  seconds: ["Total", (r) => took(r.seconds * 1000)],
  mean: ["Mean", (r) => took(r.mean * 1000)],
  longest: ["Longest", (r) => took(r.longest * 1000)],
};

export class Calls {
  sortedBy = "calls";

  /** `open(pid)`: of a failed call. */
  constructor(news, open, now) {
    Object.assign(this, { news, now });
    const head = byId("calls").querySelector("thead tr");
    this.heads = Object.entries(COLUMNS).map(([name, [word]]) => {
      const button = el("button", { type: "button", className: "link", onclick: () => ((this.sortedBy = name), this.show()) }, word);
      return el("th", { scope: "col", className: name === "op" ? "" : "num", data: { name } }, button);
    });
    head.replaceChildren(...this.heads);
    const columns = Object.entries(COLUMNS).map(([name, [, text]]) => ({ isHead: name === "op", className: name === "op" ? "text" : "num", text }));
    this.rows = new Rows(byId("calls").querySelector("tbody"), columns, (r) => r.op);
    this.failed = new Rows(byId("errors").querySelector("tbody"), this.#failedColumns(open), (r) => r.seq);
    byId("errors-all").oninput = () => this.show();
  }

  show() {
    const all = [...this.news.ops].map(([op, [calls, errors, seconds, longest]]) => ({ op, calls, errors, seconds, longest, mean: seconds / calls }));
    const by = this.sortedBy;
    all.sort((a, b) => (by === "op" ? 0 : b[by] - a[by]) || (a.op < b.op ? -1 : 1));
    this.rows.show(all.slice(0, MOST));
    for (const th of this.heads) th.setAttribute("aria-sort", th.dataset.name === by ? (by === "op" ? "ascending" : "descending") : "none");
    const num = all.reduce((sum, r) => sum + r.calls, 0);
    say(byId("calls-count"), `${many(num, "call")} ended${this.news.missing ? `, ${count(this.news.missing)} more were missed` : ""}`);
    show(byId("calls").querySelector(".empty"), !all.length);
    this.#showFailed(all.reduce((sum, r) => sum + r.errors, 0));
  }

  #showFailed(num) {
    const isAll = byId("errors-all").checked;
    const records = (isAll ? this.news.calls : this.news.errors).newest(MOST);
    this.failed.show(records);
    say(byId("errors-head"), isAll ? "Last calls" : "Errors");
    say(byId("errors-count"), isAll ? "the newest" : num > records.length ? `the last ${count(records.length)} of ${count(num)}` : count(num));
    const empty = byId("errors").querySelector(".empty");
    say(empty, isAll ? "No call yet." : "No call has failed.");
    show(empty, !records.length);
  }

  #failedColumns(open) {
    return [
      { className: "num", text: (r) => duration((this.now() - r.t_ms) / 1000) },
      {
        className: "num",
        show: (cell, r) => {
          if (!cell.firstChild) cell.append(el("button", { type: "button", className: "link", onclick: () => open(r.pid) }, String(r.pid)));
        },
      },
      { className: "text", text: (r) => `${plain(r.op)}(${plain(r.args)})` },
      { className: "result", show: (cell, r) => { cell.dataset.ok = r.result === "ok"; say(cell, plain(r.result)); } },
      { className: "num", text: (r) => took(r.ms) },
    ];
  }
}
