import assert from "node:assert/strict";
import { test } from "node:test";

import type { GenerateResult__Output } from "../gen/symphony/v1/GenerateResult.js";
import { SymphonyError } from "../src/error.js";
import { File } from "../src/lip.js";
import { packTokens } from "../src/packed.js";
import type { CallChoice, Session } from "../src/session.js";

/** A file of a session that sends one part and then ends as it is told: with a result, or when it is cancelled. */
function fileOf(result?: GenerateResult__Output): File {
  const call = (_op: string, _args: object, { signal, onPart }: CallChoice) =>
    new Promise((resolve, reject) => {
      onPart?.({ tokens: packTokens([1, 2]), text: "ab", logprobs: Buffer.of() });
      signal?.addEventListener("abort", () => reject(new SymphonyError("EINTR", "cancelled")));
      if (result) resolve(result);
    });
  return new File({ call } as unknown as Session, 3, 0);
}

test("leaving the loop over a generation cancels it", async () => {
  const generation = fileOf().generate();

  for await (const piece of generation) {
    assert.deepEqual(piece, { tokens: [1, 2], text: "ab" });
    break;
  }

  await assert.rejects(generation.completion, { reason: "EINTR" });
});

test("what the server left out of a stream comes with its end", async () => {
  const result = { length: 4, reason: "length", tokens: packTokens([1, 2, 3, 4]), text: "abcd", logprobs: Buffer.of(), distribution: null };
  const pieces = [];

  for await (const piece of fileOf(result).generate()) pieces.push(piece);

  assert.deepEqual(pieces, [{ tokens: [1, 2], text: "ab" }, { tokens: [3, 4], text: "cd" }]);
});
