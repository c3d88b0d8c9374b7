/**
 * A `generate` call (src/generation.ts): pieces while it runs, the completion when it ended. It runs from the start.
 *
 *     for await (const piece of file.generate({ maxTokens: 200 })) process.stdout.write(piece.text);
 *     const { tokens, reason } = await file.generate({ maxTokens: 200 }).completion;
 */
import type { Generate } from "../gen/symphony/v1/Generate.js";
import type { File } from "./lip.js";
import { unpackFloats, unpackTokens } from "./packed.js";

export type GenerateChoice = Omit<Generate, "fd" | "stream">;

export interface Piece {
  tokens: number[];
  text: string;
}

/** How it ended: `reason` is `stop`, `length`, `until` or `grammar`. `logprobs` only when asked for. */
export interface Completion extends Piece {
  reason: string;
  stop: string | undefined;
  logprobs: number[];
  length: number;
}

export class Generation implements AsyncIterable<Piece> {
  readonly completion: Promise<Completion>;
  private readonly pieces: Piece[] = [];
  private readonly abort = new AbortController();
  private wake: () => void = () => undefined;
  private hasEnded = false;

  constructor(
    private readonly file: File,
    choice: GenerateChoice,
  ) {
    this.completion = this.run(choice).finally(() => {
      this.hasEnded = true;
      this.wake();
    });
    this.completion.catch(() => undefined); // who iterates is told by the iterator
  }

  /** End it at the server; what it delivered stays in the file. */
  cancel(): void {
    this.abort.abort();
  }

  /** The pieces, once. Leaving the loop cancels the call. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    let numTokens = 0;
    let numChars = 0;
    try {
      for (;;) {
        for (let piece = this.pieces.shift(); piece; piece = this.pieces.shift()) {
          numTokens += piece.tokens.length;
          numChars += piece.text.length;
          yield piece;
        }
        if (this.hasEnded) break;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
      const { tokens, text } = await this.completion;
      const rest = { tokens: tokens.slice(numTokens), text: text.slice(numChars) }; // parts may be left out; the result has all
      if (rest.tokens.length || rest.text) yield rest;
    } finally {
      if (!this.hasEnded) this.cancel();
    }
  }

  private async run(choice: GenerateChoice): Promise<Completion> {
    const { file } = this;
    const result = await file.session.call("generate", { ...choice, fd: file.fd, stream: true }, {
      signal: this.abort.signal,
      onPart: ({ tokens, text }) => {
        this.pieces.push({ tokens: unpackTokens(tokens), text });
        this.wake();
      },
    });
    file.length = result.length;
    const { length, reason, stop, text } = result;
    return { length, reason, stop, text, tokens: unpackTokens(result.tokens), logprobs: unpackFloats(result.logprobs) };
  }
}
