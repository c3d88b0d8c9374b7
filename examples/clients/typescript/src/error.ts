/**
 * Errors as the server words them (src/error.ts).
 *
 *     a failed RPC      grpc-status-details-bin: google.rpc.Status { ErrorInfo { reason, metadata }, RetryInfo }  -+
 *     an answer         CallError { reason, message, values, retry_after_s }                                     -+-> SymphonyError
 *     neither           the RPC was lost: reason is EINTR, ETIMEDOUT, or EPIPE with `lost` set                   -+
 */
import { type ServiceError, status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";

import type { CallError__Output } from "../gen/symphony/v1/CallError.js";
import { decode, rpc } from "./proto.js";

const DOMAIN = "symphony";
const TRAILER = "grpc-status-details-bin";
const MOST_ASKED_MS = 60_000; // who is asked to wait longer is told instead
const WORDS: Partial<Record<status, string>> = { [status.CANCELLED]: "EINTR", [status.DEADLINE_EXCEEDED]: "ETIMEDOUT" };

export type Value = string | number | boolean;

/** What went wrong: `reason` is the errno word to act on, `values` are those of the message. */
export class SymphonyError extends Error {
  constructor(
    readonly reason: string,
    message: string,
    readonly values: Readonly<Record<string, Value>> = {},
    /** Set where waiting may help. */
    readonly retryAfterMs: number | null = null,
    /** The connection broke: nobody knows whether the call happened. */
    readonly lost: boolean = false,
  ) {
    super(message);
    this.name = reason; // so it shows as `ENOENT: no such file: /kb`
  }

  /** Nothing has changed, and the same call may succeed later. */
  get retryable(): boolean {
    if (this.retryAfterMs !== null) return this.retryAfterMs <= MOST_ASKED_MS; // a full device, or a rate limit
    return this.reason === "EAGAIN" || this.reason === "EBUSY";
  }
}

/** The error that ended an RPC. */
export function fromRpc(error: ServiceError): SymphonyError {
  const [trailer] = error.metadata?.get(TRAILER) ?? [];
  if (trailer instanceof Buffer) {
    const typed = fromStatus(trailer);
    if (typed) return typed;
  }
  const reason = WORDS[error.code];
  const message = error.details || status[error.code].toLowerCase();
  return new SymphonyError(reason ?? "EPIPE", message, {}, null, reason === undefined);
}

/** The error that an answer carries. */
export function fromAnswer(error: CallError__Output): SymphonyError {
  const afterMs = error._retryAfterS === undefined ? null : error.retryAfterS! * 1e3;
  return new SymphonyError(error.reason, error.message, parsed(error.values, JSON.parse), afterMs);
}

/** How `retry` goes about it. */
export interface RetryChoice {
  attempts?: number;
  signal?: AbortSignal;
  when?: (error: SymphonyError) => boolean;
}

/**
 * Do it again while it fails with what is retryable, waiting as long as the server says.
 *
 * Only for what may happen twice: reads, and calls with a `requestId`. For those a lost connection is a reason to try again too.
 */
export async function retry<T>(attempt: () => Promise<T>, choice: RetryChoice = {}): Promise<T> {
  const { attempts = 5, signal, when = (error) => error.retryable || error.lost } = choice;
  for (let n = 1; ; n++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof SymphonyError) || !when(error) || n === attempts || signal?.aborted) throw error;
      const askedMs = (error.retryAfterMs ?? 0) * (1 + Math.random() / 4); // so that not all come at once
      await sleep(Math.max(askedMs, backoffMs(n)), undefined, { signal }).catch(() => undefined); // aborted: now
    }
  }
}

/** How long to wait before attempt `n` + 1 at least: 50 ms, doubled up to 2 s, half of it by chance. */
export function backoffMs(n: number): number {
  return Math.min(50 * 2 ** (n - 1), 2000) * (0.5 + Math.random() / 2);
}

function fromStatus(data: Uint8Array): SymphonyError | null {
  const { message, details } = decode(rpc.Status, data);
  let info = null;
  let retryAfterMs: number | null = null;
  for (const { type_url: type, value } of details) {
    if (type.endsWith("/google.rpc.ErrorInfo")) info = decode(rpc.ErrorInfo, value);
    if (type.endsWith("/google.rpc.RetryInfo")) {
      const { retryDelay } = decode(rpc.RetryInfo, value);
      retryAfterMs = retryDelay ? retryDelay.seconds * 1e3 + retryDelay.nanos / 1e6 : 0;
    }
  }
  if (info === null || info.domain !== DOMAIN) return null;
  return new SymphonyError(info.reason, message, parsed(info.metadata, fromText), retryAfterMs);
}

/** In an answer all values are JSON; in a status text stands as it is. */
function parsed(values: Record<string, string>, parse: (text: string) => Value): Record<string, Value> {
  return Object.fromEntries(Object.entries(values).map(([name, text]) => [name, parse(text)]));
}

function fromText(text: string): Value {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "number" || typeof value === "boolean" ? value : text;
  } catch {
    return text;
  }
}
