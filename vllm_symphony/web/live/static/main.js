// The live page, put together (static/main.js).
//
//     token -> Link --glance--> Pressure, Processes, Panel
//                   --news----> News <-- Timeline, Calls          Files, Panel: ask by themselves

import { Calls } from "./calls.js";
import { byId, el, Rows, say, show } from "./dom.js";
import { Files } from "./files.js";
import { count, duration, percent, plain, rate, took } from "./format.js";
import { json, Link } from "./link.js";
import { News } from "./news.js";
import { Panel } from "./panel.js";
import { Pressure } from "./pressure.js";
import { Processes } from "./processes.js";
import { Timeline } from "./timeline.js";
import * as token from "./token.js";

const UNSEEN_MS = 60_000; // a tab that nobody looks at lets go of the server
const STATES = { connecting: "connecting…", live: "live", lost: "connection lost", refused: "signed out", ended: "ended" };

class Page {
  offsetMs = 0; // the server's clock less ours
  now = () => Date.now() + this.offsetMs;
  news = new News();

  constructor(secret) {
    const open = (pid) => this.open(pid);
    this.secret = secret;
    this.pressure = new Pressure(byId("tiles"));
    this.processes = new Processes(open, this.now);
    this.panel = new Panel(secret, this.processes, (pid) => { this.processes.mark(null); this.processes.focus(pid); });
    this.files = new Files(secret, this.now);
    this.calls = new Calls(this.news, open, this.now);
    this.timeline = new Timeline(byId("timeline"), byId("timeline-step"), this.news.steps, this.now);
    this.timeline.offer(byId("spans"), el);
    this.steps = new Rows(byId("steps").querySelector("tbody"), stepColumns(this.now), (s) => s[0]);
    this.link = new Link("api/stream", secret, { event: (kind, data) => this.take(kind, data), state: (s) => this.state(s) });
  }

  start() {
    this.link.start();
    byId("retry").onclick = () => this.link.tryNow();
    byId("leave").onclick = () => leave("");
    byId("freeze").onclick = () => this.freeze(!this.isFrozen);
    addEventListener("online", () => this.link.tryNow());
    addEventListener("pagehide", () => this.stop()); // a page that the browser keeps for "back" would keep its connections
    addEventListener("pageshow", (e) => e.persisted && location.reload());
    let unseen = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => { this.stop(); this.isAway = true; }, UNSEEN_MS);
      else if (this.isAway) { this.isAway = false; this.link.start(); }
    });
  }

  stop() {
    this.link.stop();
    this.rest();
  }

  /** Ask nothing until the stream is back. */
  rest() {
    this.panel.pause();
    this.files.stop();
  }

  take(kind, data) {
    if (kind === "glance") this.glance(data);
    else if (kind === "news") this.news.take(data, this.now());
  }

  glance(glance) {
    if (this.boot && this.boot !== glance.boot) {
      this.news.clear(); // another server: its steps and calls are counted anew
      this.pressure.clear();
    }
    this.boot = glance.boot;
    this.offsetMs = glance.t_ms - Date.now();
    this.last = glance;
    this.news.share(glance);
    if (!this.isFrozen) this.draw();
  }

  draw() {
    const speed = this.news.speed(this.now());
    this.pressure.show(this.last, speed);
    this.processes.show(this.last);
    this.panel.show();
    this.calls.show();
    say(byId("timeline-sums"), `${rate(speed.stepsPerS)} steps/s · ${took(speed.meanMs)} each · ${rate(speed.tokensPerS)} tokens/s · ${percent(speed.busy)} busy`);
    if (byId("steps").open) this.steps.show(this.news.steps.newest(25));
    if (this.server) say(byId("server"), `${plain(this.server.model.name)} · ${plain(this.server.server.version)} · up ${duration((this.now() - 1000 * this.server.server.started_s) / 1000)}`);
  }

  /** Hold the picture; what comes meanwhile is kept. */
  freeze(isFrozen) {
    this.isFrozen = isFrozen;
    this.timeline.isFrozen = isFrozen || this.wasLost;
    byId("freeze").setAttribute("aria-pressed", String(isFrozen));
    say(byId("freeze"), isFrozen ? "Go on" : "Pause");
    if (!isFrozen && this.last) this.draw();
  }

  open(pid) {
    if (!this.processes.get(pid)) return;
    this.panel.open(pid);
    this.processes.mark(pid);
  }

  state({ name, why, waitMs }) {
    if (name === "refused") return leave(why);
    const isLost = name === "lost" || (name === "connecting" && this.wasLost);
    this.wasLost = isLost;
    this.timeline.isFrozen = this.isFrozen || isLost; // what we do not know is not nothing
    byId("state").dataset.state = isLost ? "lost" : name;
    say(byId("state"), isLost ? STATES.lost : STATES[name]);
    show(byId("lost"), isLost);
    document.body.classList.toggle("is-lost", isLost);
    if (name === "lost") this.#count(why, waitMs);
    if (name === "live") this.#arrived();
    else this.rest();
  }

  #count(why, waitMs) {
    const until = performance.now() + waitMs;
    say(byId("lost-why"), why);
    clearInterval(this.counting);
    const tell = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      say(byId("lost-wait"), left > 0 ? `Trying again in ${left} s.` : "Trying again…");
    };
    tell();
    this.counting = setInterval(tell, 500);
  }

  async #arrived() {
    clearInterval(this.counting);
    token.keep(this.secret);
    for (const id of ["board", "who", "leave", "freeze"]) show(byId(id), true);
    show(byId("door"), false);
    this.files.start();
    this.panel.resume();
    try {
      this.server = await json("api/info", this.secret);
      say(byId("who"), `${plain(this.server.principal)}${this.server.scopes.includes("admin") ? " (admin: sees all)" : ""}`);
      document.title = `${plain(this.server.model.name)} · Symphony`;
    } catch {
      // the stream says what is wrong
    }
  }
}

function stepColumns(now) {
  const texts = [(s) => count(s[0]), (s) => duration((now() - s[1]) / 1000), (s) => took(s[2]), (s) => count(s[3]), plainRows, (s) => count(s[5])];
  return texts.map((text) => ({ className: "num", text }));
}

const plainRows = (s) => (s[4] === null ? "–" : `${s[6] ? "about " : ""}${count(s[4])}`);

/** Forget who it was, and ask. A new page is the surest way to forget all. */
function leave(why) {
  token.forget();
  if (why) sessionStorage.setItem("symphony.why", why);
  location.reload();
}

function ask() {
  show(byId("door"), true);
  say(byId("door-error"), sessionStorage.getItem("symphony.why") ?? "");
  sessionStorage.removeItem("symphony.why");
  const field = byId("token");
  byId("door-form").addEventListener("submit", (e) => {
    e.preventDefault();
    const text = field.value.trim();
    say(byId("door-error"), token.fault(text));
    if (token.fault(text)) return;
    field.value = "";
    show(byId("door"), false);
    new Page(text).start();
  });
  field.focus();
}

addEventListener("hashchange", () => token.found() && location.reload());
const secret = token.found();
if (secret) new Page(secret).start();
else ask();
