// One process (static/panel.js): what it waits for, what it used, what it prints, and the signals that one may send it.

import { byId, el, say, show } from "./dom.js";
import { bytes, count, duration, plain } from "./format.js";
import { json, Link } from "./link.js";
import { kindOf, stateOf } from "./processes.js";

const MAX_LINES = 1000;
const SURE_MS = 3000; // KILL asks once more
const SIGNALS = {
  TERM: ["End", "TERM: it may clean up"], KILL: ["Kill", "KILL: at once"], STOP: ["Stop", "STOP: hold it"], CONT: ["Continue", "CONT: let it go on"],
};

export class Panel {
  pid = null;
  #link = null;
  #lastSeq = 0;

  /** `onClose(pid)`: the panel is shut. */
  constructor(token, processes, onClose) {
    Object.assign(this, { token, processes, onClose });
    this.box = byId("panel");
    this.log = byId("panel-log");
    byId("panel-close").addEventListener("click", () => this.close());
    this.box.addEventListener("keydown", (e) => e.key === "Escape" && this.close());
    this.buttons = Object.entries(SIGNALS).map(([signal, [word, title]]) => {
      const button = el("button", { type: "button", title, data: { signal }, onclick: () => this.#press(button, signal) }, word);
      byId("panel-signals").append(button);
      return button;
    });
  }

  open(pid) {
    if (this.pid !== pid) {
      this.#forget();
      this.pid = pid;
      this.#link = new Link(() => `api/logs/${pid}?follow=1&from_seq=${this.#lastSeq + 1}`, this.token, {
        event: (_, events) => this.#print(events),
        state: ({ name, why }) => say(byId("panel-log-state"), { live: "", ended: "· complete", connecting: "· …" }[name] ?? `· ${why}`),
      }, { isLog: true });
      this.#link.start();
    }
    show(this.box, true);
    document.body.classList.add("with-panel");
    this.show();
    byId("panel-head").focus();
  }

  close() {
    const { pid } = this;
    this.#forget();
    show(this.box, false);
    document.body.classList.remove("with-panel");
    this.onClose(pid);
  }

  pause() {
    this.#link?.stop();
  }

  resume() {
    if (this.#link && !this.#link.isOn) this.#link.start();
  }

  #forget() {
    this.#link?.stop();
    this.#link = this.pid = this.last = null;
    this.#lastSeq = 0;
    this.log.replaceChildren();
    byId("panel-why").replaceChildren();
    say(byId("panel-error"), "");
    for (const button of this.buttons) this.#unsure(button);
  }

  /** A new look: what is known of it now. */
  show() {
    if (this.pid === null) return;
    const p = this.processes.get(this.pid) ?? (this.last && { ...this.last, isGone: true });
    if (!p) return;
    this.last = p;
    say(byId("panel-head"), `${p.pid} ${plain(p.name) || "(no name)"}`);
    say(byId("panel-state"), `${p.isGone ? "gone" : stateOf(p)} · ${kindOf(p)} · of ${plain(p.principal)}${p.exit?.error ? ` · ${plain(p.exit.error)}` : ""}`);
    const canSignal = !p.exit && !p.isGone;
    for (const button of this.buttons) {
      const isHold = ["STOP", "CONT"].includes(button.dataset.signal);
      const fits = !isHold || (p.kind !== "session" && (p.state === "stopped") === (button.dataset.signal === "CONT"));
      show(button, canSignal && fits);
    }
    this.#usage(p);
    if (canSignal) this.#why(p.pid);
    else byId("panel-why").replaceChildren(el("li", { className: "muted" }, "It has ended."));
  }

  #usage(p) {
    const u = p.usage;
    const facts = {
      "Device": duration(u.device_s), "CPU": duration(u.cpu_s), "Memory": p.memory_bytes ? bytes(p.memory_bytes) : "–",
      "Tokens in": count(u.tokens_in), "Tokens out": count(u.tokens_out), "Calls": count(u.num_calls), "Steps": count(u.num_steps),
      "Pages": count(p.pages), "Files open": count(p.files), "Calls of tools": count(u.num_tools), "Messages": count(u.num_messages),
      "Waited for tools": duration(u.tool_s),
    };
    const list = byId("panel-usage");
    if (!list.children.length) for (const name of Object.keys(facts)) list.append(el("div", {}, el("dt", {}, name), el("dd")));
    Object.values(facts).forEach((fact, i) => say(list.children[i].lastChild, fact));
  }

  async #why(pid) {
    try {
      const { threads } = await json(`api/why/${pid}`, this.token);
      if (this.pid !== pid) return;
      byId("panel-why").replaceChildren(...threads.slice(0, 50).map((t) => el("li", {},
        el("strong", {}, `${t.tid} ${plain(t.name)}`.trim()), ` ${t.op ? `${plain(t.op)}(${plain(t.args)}): ` : ""}${plain(t.cause)}${t.detail ? `, ${plain(t.detail)}` : ""}`)));
    } catch {
      // it has just ended, or the connection is lost: both are shown elsewhere
    }
  }

  #print(events) {
    const { log } = this;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    for (const e of events) {
      if (e.seq <= this.#lastSeq) continue;
      this.#lastSeq = e.seq;
      const text = { gap: `${e.text} lines are missing`, started: "started", exit: `ended: ${e.text}` }[e.kind] ?? e.text;
      for (const line of text.replace(/\n$/, "").split("\n")) {
        log.append(el("li", { className: e.kind }, el("time", {}, new Date(e.t_ms).toLocaleTimeString("en-GB")), el("span", {}, plain(line) || " ")));
      }
    }
    while (log.children.length > MAX_LINES) log.firstChild.remove();
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  #press(button, signal) {
    if (signal === "KILL" && !button.dataset.sure) {
      button.dataset.sure = "yes";
      say(button, "Really kill?");
      setTimeout(() => this.#unsure(button), SURE_MS);
      return;
    }
    this.#unsure(button);
    this.#signal(signal);
  }

  #unsure(button) {
    delete button.dataset.sure;
    say(button, SIGNALS[button.dataset.signal][0]);
  }

  async #signal(signal) {
    const error = byId("panel-error");
    try {
      await json("api/kill", this.token, { method: "POST", body: JSON.stringify({ pid: this.pid, signal }), headers: { "Content-Type": "application/json" } });
      say(error, "");
    } catch (e) {
      say(error, `${signal} was not sent. ${e.message}`);
    }
  }
}
