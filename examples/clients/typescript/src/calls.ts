/**
 * The system calls (src/calls.ts): which field of Answer holds the result of which field of Call, and which of them change nothing.
 *
 * The compiler compares the table with the protos: a call that is missing here, or an answer that does not exist, is an error.
 */
import type { Answer__Output } from "../gen/symphony/v1/Answer.js";
import type { Call } from "../gen/symphony/v1/Call.js";

/** Name of a system call. */
export type Op = NonNullable<Call["args"]>;
type Outcome = Exclude<NonNullable<Answer__Output["outcome"]>, "error" | "generatePart" | "watchPart">;

interface Spec {
  answer: Outcome;
  /** Changes nothing, so it may be repeated without a request id. */
  reads?: true;
}

export const CALLS = {
  keepAlive: { answer: "leaseResult", reads: true },
  cancel: { answer: "done", reads: true },
  open: { answer: "fdResult" },
  close: { answer: "done" },
  dup: { answer: "fdResult" },
  fork: { answer: "fdResult" },
  truncate: { answer: "done" },
  append: { answer: "lengthResult" },
  read: { answer: "readResult", reads: true },
  link: { answer: "done" },
  unlink: { answer: "done" },
  rename: { answer: "done" },
  stat: { answer: "statResult", reads: true },
  list: { answer: "listResult", reads: true },
  mkdir: { answer: "done" },
  rmdir: { answer: "done" },
  listdir: { answer: "listResult", reads: true },
  chmod: { answer: "done" },
  chown: { answer: "done" },
  umask: { answer: "umaskResult" },
  setxattr: { answer: "done" },
  getxattr: { answer: "xattrsResult", reads: true },
  listxattr: { answer: "xattrsResult", reads: true },
  removexattr: { answer: "done" },
  chattr: { answer: "done" },
  extract: { answer: "fdResult" },
  concat: { answer: "fdResult" },
  flock: { answer: "leaseResult" },
  pin: { answer: "done" },
  advise: { answer: "done" },
  sync: { answer: "syncResult", reads: true },
  statfs: { answer: "statfsResult", reads: true },
  du: { answer: "duResult", reads: true },
  getquota: { answer: "quotaResult", reads: true },
  find: { answer: "findResult", reads: true },
  watch: { answer: "done", reads: true },
  forward: { answer: "forwardResult" },
  forwardMany: { answer: "forwardManyResult" },
  sample: { answer: "sampleResult" },
  logits: { answer: "logitsResult", reads: true },
  generate: { answer: "generateResult" },
  tokenize: { answer: "tokensResult", reads: true },
  detokenize: { answer: "textResult", reads: true },
  renderChat: { answer: "tokensResult", reads: true },
  parseTools: { answer: "jsonResult", reads: true },
  modelInfo: { answer: "modelInfoResult", reads: true },
  spawn: { answer: "pidResult" },
  wait: { answer: "waitResult" },
  kill: { answer: "done" },
  ps: { answer: "psResult", reads: true },
  getpid: { answer: "pidResult", reads: true },
  sleep: { answer: "done", reads: true },
  now: { answer: "timeResult", reads: true },
  monotonic: { answer: "timeResult", reads: true },
  random: { answer: "bytesResult" },
  emit: { answer: "done" },
  exit: { answer: "done" },
  threadStart: { answer: "done" },
  threadEnd: { answer: "done" },
  ping: { answer: "done", reads: true },
  inherited: { answer: "inheritedResult", reads: true },
  getrlimit: { answer: "rlimitResult", reads: true },
  setrlimit: { answer: "done" },
  getrusage: { answer: "rusageResult", reads: true },
  channelOpen: { answer: "channelResult" },
  channelClose: { answer: "done" },
  channelUnlink: { answer: "done" },
  channels: { answer: "channelsResult", reads: true },
  send: { answer: "sendResult" },
  recv: { answer: "recvResult" },
  request: { answer: "recvResult" },
  respond: { answer: "done" },
  poll: { answer: "pollResult", reads: true },
  tools: { answer: "toolsResult", reads: true },
  callTool: { answer: "toolResult" },
  feed: { answer: "done" },
} as const satisfies Record<Op, Spec>;

/** Arguments of a call. */
export type Args<K extends Op> = NonNullable<Call[K]>;
/** What a call answers. */
export type Result<K extends Op> = NonNullable<Answer__Output[(typeof CALLS)[K]["answer"]]>;

/** May the call be repeated as it is? */
export function isRead(op: Op): boolean {
  return (CALLS[op] as Spec).reads === true;
}

/** The result in an answer that is no error. */
export function resultOf<K extends Op>(op: K, answer: Answer__Output): Result<K> | null {
  return (answer[CALLS[op].answer] as Result<K> | null | undefined) ?? null;
}
