/**
 * A session: this process is a program of the server (src/session.ts). It outlives its connections; each call happens once.
 *
 *     calls     1 2 3 | 4 5 6 ->        kept until answered; sent again above the `last_call` of the server's hello
 *     messages  <- 8 9 | 10 11          numbered by the server, kept there until acknowledged; those we have are dropped
 *
 *     connecting --hello--> connected --lost--> waiting --backoff--> connecting      ended: by exit, close, or what cannot be mended
 *
 * docs/clients.md tells the algorithm step by step.
 */
import type { Answer__Output } from "../gen/symphony/v1/Answer.js";
import type { Call } from "../gen/symphony/v1/Call.js";
import type { ConnectResponse__Output } from "../gen/symphony/v1/ConnectResponse.js";
import type { GeneratePart__Output } from "../gen/symphony/v1/GeneratePart.js";
import type { HelloResult__Output } from "../gen/symphony/v1/HelloResult.js";
import type { WatchPart__Output } from "../gen/symphony/v1/WatchPart.js";
import { type Args, isRead, type Op, type Result, resultOf } from "./calls.js";
import type { Client } from "./client.js";
import { Connection, type Owner } from "./connection.js";
import { backoffMs, fromAnswer, retry, SymphonyError } from "./error.js";

const ACK_AFTER_MS = 20; // an acknowledgement rides on the next call, or goes alone after so long
const PATIENCE_MS = 5_000; // beyond the lease: the server says better than our clock whether the session has ended
const MAY_PASS = new Set(["EAGAIN", "EINTR", "ETIMEDOUT"]); // as the answer to a hello
const ENDS = new Set(["EINVAL", "EPIPE"]); // of a connection that stood: our fault, or another connection took over

export interface SessionChoice {
  /** How long the session outlives its last connection. */
  leaseS?: number;
  /** What lists show. */
  name?: string;
  /** TERM asks the session to end. */
  onSignal?: (signal: string) => void;
}

export interface CallChoice {
  /** A retry with the same one happens once; with it, and for reads, what is retryable is retried here. */
  requestId?: string;
  /** Aborting it ends the call at the server: EINTR, unless it was done. */
  signal?: AbortSignal;
  /** The parts of a stream, in order, each once. */
  onPart?: (part: GeneratePart__Output) => void;
  /** The same of `watch`. */
  onEvents?: (part: WatchPart__Output) => void;
  tid?: number;
}

interface Pending {
  call: Call;
  answer: (answer: Answer__Output) => void;
  fail: (error: SymphonyError) => void;
}

export class Session {
  pid = 0;
  leaseS: number;
  /** Proves that a connection may go on with the session; a secret. */
  resume = "";

  private readonly pending = new Map<number, Pending>(); // by id, ascending
  private readonly owner: Owner;
  private readonly opened: Promise<void>;
  private settleOpened!: { resolve: () => void; reject: (error: SymphonyError) => void };
  private connection: Connection | null = null;
  private isConnected = false;
  private end: SymphonyError | null = null;
  private lastId = 0;
  private received = 0; // number of the last message that we have
  private acknowledged = 0;
  private attempts = 0;
  private lostAt = Date.now();
  private reconnecting: NodeJS.Timeout | undefined;
  private acknowledging: NodeJS.Timeout | undefined;

  private constructor(
    private readonly client: Client,
    private readonly choice: SessionChoice,
  ) {
    this.leaseS = choice.leaseS ?? 60;
    this.opened = new Promise((resolve, reject) => (this.settleOpened = { resolve, reject }));
    this.owner = {
      connected: (hello) => this.connected(hello),
      take: (message) => this.take(message),
      lost: (error) => this.lost(error),
    };
    this.connect();
  }

  /** Make a session. Rejects where the server refuses it, or cannot be reached. */
  static async open(client: Client, choice: SessionChoice = {}): Promise<Session> {
    const session = new Session(client, choice);
    await session.opened;
    return session;
  }

  /** Make a call; it may wait for a connection. Rejects with the error that it answers, or the end of the session. */
  call<K extends Op>(op: K, args: Args<K>, choice: CallChoice = {}): Promise<Result<K>> {
    const once = () => this.once(op, args, choice);
    if (!choice.requestId && !isRead(op)) return once();
    return retry(once, { signal: choice.signal, when: (error) => error.retryable });
  }

  /** End the session, and its children with it. */
  async exit(value?: unknown, code = 0): Promise<void> {
    try {
      await this.call("exit", { code, value: value === undefined ? undefined : JSON.stringify(value) });
    } catch (error) {
      if (!(error instanceof SymphonyError && error.reason === "ESRCH")) throw error; // it is gone, and its answer with it
    } finally {
      this.stop(new SymphonyError("ESRCH", `session ${this.pid} has ended`));
    }
  }

  /** Leave the session to its lease. */
  close(): void {
    this.stop(new SymphonyError("EPIPE", `session ${this.pid} was left`));
  }

  private once<K extends Op>(op: K, args: Args<K>, { requestId, signal, onPart, onEvents, tid }: CallChoice): Promise<Result<K>> {
    return new Promise((resolve, reject) => {
      if (this.end) return reject(this.end);
      if (signal?.aborted) return reject(new SymphonyError("EINTR", `${op} was cancelled before it was made`));
      const id = ++this.lastId;
      const cancel = () => void this.call("cancel", { target: id }).catch(() => undefined);
      const settle = () => {
        this.pending.delete(id);
        signal?.removeEventListener("abort", cancel);
      };
      const answer = (answer: Answer__Output) => {
        if (answer.generatePart) return onPart?.(answer.generatePart);
        if (answer.watchPart) return onEvents?.(answer.watchPart);
        settle();
        const result = answer.error ? null : resultOf(op, answer);
        if (result) resolve(result);
        else reject(answer.error ? fromAnswer(answer.error) : new SymphonyError("EIO", `${op} was answered by ${answer.outcome}`));
      };
      const fail = (error: SymphonyError) => {
        settle();
        reject(error);
      };
      const call: Call = { id, tid, requestId, [op]: args };
      this.pending.set(id, { call, answer, fail });
      signal?.addEventListener("abort", cancel, { once: true });
      if (this.isConnected) this.send(call);
    });
  }

  private send(call: Call): void {
    this.acknowledged = this.received;
    this.connection!.send(call, this.received);
  }

  private connect(): void {
    const { name } = this.choice;
    const hello = this.pid ? { pid: this.pid, resume: this.resume, received: this.received } : { leaseS: this.leaseS, name };
    this.connection = new Connection(this.client, hello, this.owner);
  }

  // ---- what the connection tells

  private connected(hello: HelloResult__Output): void {
    ({ pid: this.pid, resume: this.resume, leaseS: this.leaseS } = hello);
    this.isConnected = true;
    this.attempts = 0;
    this.acknowledged = this.received; // our hello said so
    for (const [id, { call }] of this.pending) if (id > hello.lastCall) this.send(call);
    this.settleOpened.resolve();
  }

  private take({ seq, answer, signal }: ConnectResponse__Output): void {
    if (seq <= this.received) return;
    if (seq !== this.received + 1) {
      this.connection!.close();
      return this.lost(new SymphonyError("EIO", `message ${seq} came after ${this.received}`, {}, null, true));
    }
    this.received = seq;
    this.acknowledging ??= setTimeout(() => this.acknowledge(), ACK_AFTER_MS);
    if (signal) this.choice.onSignal?.(signal);
    if (answer) this.pending.get(answer.id)?.answer(answer);
  }

  private acknowledge(): void {
    this.acknowledging = undefined;
    if (!this.isConnected || this.acknowledged === this.received) return;
    this.acknowledged = this.received;
    this.connection!.acknowledge(this.received);
  }

  private lost(error: SymphonyError): void {
    const isLoss = error.lost && this.pid > 0; // else there is no session yet to go on with
    const mayPass = isLoss || (this.isConnected ? !ENDS.has(error.reason) : MAY_PASS.has(error.reason));
    if (this.isConnected) this.lostAt = Date.now();
    this.isConnected = false;
    if (!mayPass || Date.now() - this.lostAt > this.leaseS * 1e3 + PATIENCE_MS) return this.stop(error);
    this.reconnecting = setTimeout(() => this.connect(), backoffMs(++this.attempts));
  }

  private stop(why: SymphonyError): void {
    if (this.end) return;
    this.end = why;
    this.isConnected = false;
    clearTimeout(this.reconnecting);
    clearTimeout(this.acknowledging);
    this.connection?.close();
    for (const { fail } of [...this.pending.values()]) fail(why);
    this.settleOpened.reject(why);
  }
}
