/**
 * Files and distributions as a remote program holds them (src/lip.ts): Python's `lip`, as much of it as a decoding loop needs.
 *
 *     const chat = await open(session, { tokens: await renderChat(session, "hi") });
 *     let dist = await chat.forward();
 *     for (let token = dist.top1; token !== end; token = dist.top1) dist = await chat.forward([token]);
 */
import type { Distribution__Output } from "../gen/symphony/v1/Distribution.js";
import type { FileEvent__Output } from "../gen/symphony/v1/FileEvent.js";
import type { Forward } from "../gen/symphony/v1/Forward.js";
import type { ModelInfo__Output } from "../gen/symphony/v1/ModelInfo.js";
import type { Sampler } from "../gen/symphony/v1/Sampler.js";
import { Generation, type GenerateChoice } from "./generation.js";
import { packTokens, unpackFloats, unpackTokens } from "./packed.js";
import type { Session } from "./session.js";

/** Bits of `flags`. */
export const RDWR = 1, CREAT = 2, EXCL = 4, TRUNC = 8, TMPFILE = 16;

export interface Opening {
  /** What a new file holds; without `path` it is anonymous. */
  tokens?: Iterable<number>;
  path?: string;
  flags?: number;
  mode?: number;
  /** `exact` refuses a file whose keys and values are no plain function of its tokens. */
  require?: "exact";
}

/** Open a file by its name, or make one. */
export async function open(session: Session, { tokens, path, flags, mode, require }: Opening): Promise<File> {
  const packed = tokens === undefined ? undefined : packTokens(tokens);
  const { fd, length } = await session.call("open", { path, tokens: packed, flags, mode, require });
  return new File(session, fd, length);
}

/** An open file: a list of tokens whose keys and values the server holds. `length` is what the last answer said. */
export class File {
  constructor(
    readonly session: Session,
    readonly fd: number,
    public length: number,
  ) {}

  /** A copy that shares everything computed. */
  async fork(): Promise<File> {
    const { fd, length } = await this.session.call("fork", { fd: this.fd });
    return new File(this.session, fd, length);
  }

  /**
   * A new file with the tokens of these spans, [start, stop), ascending and apart: nothing is computed again. `compact` gives them
   * positions 0, 1, 2, ...
   */
  async extract(spans: [start: number, stop: number][], positions: "keep" | "compact" = "keep"): Promise<File> {
    const wanted = spans.map(([start, stop]) => ({ start, stop }));
    const { fd, length } = await this.session.call("extract", { fd: this.fd, spans: wanted, positions });
    return new File(this.session, fd, length);
  }

  /** Do `work` while the file is locked: nobody else writes it (`exclusive`), or locks it so (`shared`). */
  async locked<T>(work: () => Promise<T>, kind: "exclusive" | "shared" = "exclusive", leaseS = 30): Promise<T> {
    await this.session.call("flock", { fd: this.fd, kind, leaseS });
    try {
      return await work();
    } finally {
      await this.session.call("flock", { fd: this.fd, kind: "unlock" });
    }
  }

  /** Give the file a name; `replace`: what has it loses it, atomically. */
  async link(path: string, replace = false): Promise<void> {
    await this.session.call("link", { fd: this.fd, path, replace });
  }

  /** Append tokens and give the distribution after the last one; without tokens, after what is there. */
  async forward(tokens: Iterable<number> = [], choice: Omit<Forward, "fd" | "tokens" | "outputs" | "indices"> = {}): Promise<Distribution> {
    const result = await this.session.call("forward", { ...choice, fd: this.fd, tokens: packTokens(tokens) });
    this.length = result.length;
    return new Distribution(this, result.distributions[0]!);
  }

  /** Append tokens; the next forward computes them. */
  async append(tokens: Iterable<number>): Promise<void> {
    const { length } = await this.session.call("append", { fd: this.fd, tokens: packTokens(tokens) });
    this.length = length;
  }

  /** Keep the first `length` tokens. */
  async truncate(length: number): Promise<void> {
    await this.session.call("truncate", { fd: this.fd, length });
    this.length = length;
  }

  /** The tokens from `offset` on. */
  async read(offset = 0): Promise<number[]> {
    const { tokens, length } = await this.session.call("read", { fd: this.fd, offset });
    this.length = length;
    return unpackTokens(tokens);
  }

  /** The fused decoding loop, at the server: iterate over its pieces, or await its `completion`. */
  generate(choice: GenerateChoice = {}): Generation {
    return new Generation(this, choice);
  }

  /** Give the fd back. */
  async close(): Promise<void> {
    await this.session.call("close", { fd: this.fd });
  }
}

/** A new file with the tokens of all `files`; `rotate` copies the keys and values of all but the first, and computes nothing. */
export async function concat(session: Session, files: File[], mode: "recompute" | "rotate" = "recompute"): Promise<File> {
  const { fd, length } = await session.call("concat", { fds: files.map((file) => file.fd), mode });
  return new File(session, fd, length);
}

/** Tell `onEvent` what happens to the file, or below the directory, until `signal` aborts. */
export async function watch(session: Session, path: string, onEvent: (event: FileEvent__Output) => void, signal: AbortSignal): Promise<void> {
  try {
    await session.call("watch", { path }, { signal, onEvents: ({ events }) => events.forEach(onEvent) });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** What comes after the token at `position` of a file. */
export class Distribution {
  /** The best token ids, best first. */
  readonly ids: number[];
  /** Their log-probabilities at temperature 1. */
  readonly logprobs: number[];

  constructor(
    readonly file: File,
    private readonly data: Distribution__Output,
  ) {
    this.ids = unpackTokens(data.ids);
    this.logprobs = unpackFloats(data.logprobs);
  }

  get position(): number {
    return this.data.position;
  }

  /** In nats; NaN unless `forward` was asked for it. */
  get entropy(): number {
    return this.data.entropy;
  }

  /** The best token: what greedy decoding takes. */
  get top1(): number {
    return this.ids[0]!;
  }

  /** Probability of the best token. */
  get p(): number {
    return Math.exp(this.logprobs[0]!);
  }

  /** Draw a token: the best one, known here; with a sampler the server draws from the whole row. */
  async sample(sampler?: Sampler): Promise<number> {
    if (sampler === undefined) return this.top1;
    const { tokens } = await this.file.session.call("sample", { fd: this.file.fd, position: this.position, sampler });
    return unpackTokens(tokens)[0]!;
  }
}

/** Token ids of a text, without the tokens that begin a document unless `special`. */
export async function tokenize(session: Session, text: string, special = false): Promise<number[]> {
  return unpackTokens((await session.call("tokenize", { text, special })).tokens);
}

/** Text of these tokens. */
export async function detokenize(session: Session, tokens: Iterable<number>): Promise<string> {
  return (await session.call("detokenize", { tokens: packTokens(tokens) })).text;
}

/** Token ids of a conversation, or of one question, ready for the model's answer. */
export async function renderChat(session: Session, messages: string | { role: string; content: string }[]): Promise<number[]> {
  const listed = typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
  return unpackTokens((await session.call("renderChat", { messages: JSON.stringify(listed) })).tokens);
}

/** The model's limits and its end tokens. */
export async function modelInfo(session: Session): Promise<ModelInfo__Output> {
  return (await session.call("modelInfo", {})).model!;
}
