// A stream of server-sent events that comes back (static/link.js).
//
//     connecting --200--> live --silence, end, error--> lost --back-off--> connecting        401: refused, for good
//
// `EventSource` sends no headers, and a token has no place in an address: so it is `fetch`, read as it comes.

const SILENCE_MS = 6000; // the server says something each second
const WAITS_MS = [500, 1000, 2000, 4000, 8000, 15000];
const MAX_FRAME = 16 << 20; // characters: nothing that we understand is as long

export class Link {
  #leave = null;
  #now = () => {};

  /** `on.event(kind, data)`, `on.state({name, why, waitMs})`. `isLog`: its end is the end. */
  constructor(path, token, on, { isLog = false } = {}) {
    Object.assign(this, { path, token, on, isLog });
  }

  start() {
    this.stop();
    this.#leave = new AbortController();
    this.#run(this.#leave.signal);
  }

  stop() {
    this.#leave?.abort();
    this.#leave = null;
  }

  get isOn() {
    return this.#leave !== null;
  }

  /** Do not wait for the end of the back-off. */
  tryNow() {
    this.#now();
  }

  async #run(left) {
    for (let fails = 0; !left.aborted; fails++) {
      this.on.state({ name: "connecting" });
      const end = await this.#once(left, () => (fails = 0));
      if (left.aborted) return;
      if (end.isFinal) return this.on.state({ name: end.isRefused ? "refused" : "ended", why: end.why });
      const waitMs = Math.max(end.afterMs ?? 0, WAITS_MS[Math.min(fails, WAITS_MS.length - 1)] * (0.75 + Math.random() / 2));
      this.on.state({ name: "lost", why: end.why, waitMs });
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        this.#now = () => (clearTimeout(timer), resolve());
        left.addEventListener("abort", this.#now, { once: true });
      });
    }
  }

  /** One connection, to its end: {why, isFinal, isRefused, afterMs}. */
  async #once(left, onLive) {
    const hang = new AbortController();
    const hangUp = () => hang.abort();
    left.addEventListener("abort", hangUp, { once: true });
    let silence = setTimeout(hangUp, SILENCE_MS);
    try {
      const path = typeof this.path === "function" ? this.path() : this.path;
      const answer = await ask(path, this.token, { signal: hang.signal });
      onLive();
      this.on.state({ name: "live" });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return { why: "The server ended the stream." };
        clearTimeout(silence);
        silence = this.isLog ? 0 : setTimeout(hangUp, SILENCE_MS);
        const frames = (text + value).split("\n\n"); // a message with an error is the door's last word: the token is good no longer
        text = frames.pop();
        if (text.length > MAX_FRAME) throw new Error("The server sends what this page does not understand.");
        for (const frame of frames) {
          const [kind, data] = parsed(frame);
          if (kind === "end" || (kind === "message" && data.error)) return { why: data.error ? sentence(data.error.message) : "The server is stopping.", isFinal: this.isLog && !data.error };
          this.on.event(kind, data);
        }
      }
    } catch (error) {
      if (error instanceof Refused) return { why: error.message, isFinal: error.isFinal, isRefused: error.isFinal, afterMs: error.afterMs };
      return { why: hang.signal.aborted ? "The server says nothing." : "The server cannot be reached." };
    } finally {
      clearTimeout(silence);
      left.removeEventListener("abort", hangUp);
      hang.abort();
    }
  }
}

/** The server said no, and why. */
export class Refused extends Error {
  constructor(status, message, afterMs) {
    super(message);
    Object.assign(this, { status, afterMs, isFinal: [400, 401, 403, 404].includes(status) });
  }
}

/** An answer of the API. Throws Refused, or what `fetch` throws. */
export async function ask(path, token, more = {}) {
  const answer = await fetch(path, {
    ...more, headers: { Authorization: `Bearer ${token}`, ...more.headers }, cache: "no-store", credentials: "omit", redirect: "error",
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const message = told?.error?.message ?? `The server answers with status ${answer.status}.`;
  throw new Refused(answer.status, sentence(message), 1000 * Number(answer.headers.get("retry-after") ?? 0));
}

export const json = async (path, token, more) => (await ask(path, token, more)).json();

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function parsed(frame) {
  let kind = "message";
  let data = "";
  for (const line of frame.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return [kind, JSON.parse(data)];
}
