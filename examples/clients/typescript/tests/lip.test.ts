import assert from "node:assert/strict";
import { test } from "node:test";

import { concat, CREAT, detokenize, open, RDWR, renderChat, tokenize, watch, type Piece } from "../src/index.js";
import { connect, inSession } from "./server.js";

const client = connect();
const QUESTION = "Tell me a story about the sea.";
const NUM_TOKENS = 40;

/** What the loop of the test is compared with: the same loop by Python, as a program at the server. */
const LOOP = `
from vllm_symphony import lip

async def main(question, num_tokens):
    tokens = []
    async with lip.open(tokens=await lip.render_chat(question)) as chat:
        dist = await chat.forward()
        for _ in range(num_tokens):
            tokens.append(dist.top1)
            dist = await chat.forward(tokens[-1])
    return tokens
`;

async function byPython(): Promise<number[]> {
  const args = JSON.stringify({ question: QUESTION, num_tokens: NUM_TOKENS });
  let value: string | undefined;
  for await (const { exit } of client.run({ source: LOOP, args })) value = exit?.value;
  return JSON.parse(value!) as number[];
}

test("a loop of forwards picks the tokens that the same loop by Python picks", async () => {
  await inSession(client, async (session) => {
    const chat = await open(session, { tokens: await renderChat(session, QUESTION) });
    const start = chat.length;

    let dist = await chat.forward();
    for (let n = 0; n < NUM_TOKENS; n++) dist = await chat.forward([dist.top1]);

    assert.deepEqual(await chat.read(start), await byPython());
  });
});

test("generate streams pieces that together are its completion, and equals the loop", async () => {
  await inSession(client, async (session) => {
    const chat = await open(session, { tokens: await renderChat(session, QUESTION) });
    const start = chat.length;
    const pieces: Piece[] = [];

    const generation = chat.generate({ maxTokens: NUM_TOKENS, ignoreEos: true });
    for await (const piece of generation) pieces.push(piece);

    const done = await generation.completion;
    assert.equal(done.reason, "length");
    assert.deepEqual(pieces.flatMap((p) => p.tokens), done.tokens);
    assert.equal(pieces.map((p) => p.text).join(""), done.text);
    assert.equal(chat.length, start + NUM_TOKENS);
    assert.deepEqual(done.tokens, await byPython());
  });
});

test("a fork shares what is there and goes its own way", async () => {
  await inSession(client, async (session) => {
    const trunk = await open(session, { tokens: await tokenize(session, "once upon a time") });

    const branch = await trunk.fork();
    await branch.append([1, 2, 3]);

    assert.equal((await branch.read()).length, trunk.length + 3);
    assert.equal(await detokenize(session, await trunk.read()), "once upon a time");
  });
});

test("a seeded draw at the server is the same twice, and changes nothing", async () => {
  await inSession(client, async (session) => {
    const file = await open(session, { tokens: await tokenize(session, "once") });
    const dist = await file.forward();

    const first = await dist.sample({ temperature: 1.5, seed: 7 });

    assert.equal(await dist.sample({ temperature: 1.5, seed: 7 }), first);
    assert.equal(await dist.sample({ temperature: 0 }), dist.top1);
    assert.deepEqual(await file.read(), await tokenize(session, "once"));
  });
});

test("the probabilities of a distribution are packed floats, best first", async () => {
  await inSession(client, async (session) => {
    const file = await open(session, { tokens: [1, 2, 3] });

    const dist = await file.forward([], { topK: 5, entropy: true });

    assert.equal(dist.ids.length, 5);
    assert.deepEqual(dist.logprobs, [...dist.logprobs].sort((a, b) => b - a));
    assert.ok(dist.p > 0 && dist.p <= 1 && dist.entropy > 0);
    assert.equal(dist.position, 2);
  });
});

test("spans of a file and files one after the other are files of their own", async () => {
  await inSession(client, async (session) => {
    const file = await open(session, { tokens: [1, 2, 3, 4, 5, 6, 7, 8] });

    const part = await file.extract([[0, 2], [6, 8]], "compact");
    const both = await concat(session, [part, file]);

    assert.deepEqual(await part.read(), [1, 2, 7, 8]);
    assert.deepEqual(await both.read(), [1, 2, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

test("a locked file is written by its holder alone", async () => {
  await inSession(client, async (session) => {
    const path = `/tmp/locked-${session.pid}`;
    const mine = await open(session, { path, flags: RDWR | CREAT });
    const other = await open(session, { path, flags: RDWR });

    const refused = await mine.locked(async () => {
      await mine.append([1]);
      return other.append([2]).then(() => "none", (error: { reason: string }) => error.reason);
    });
    await other.append([3]);

    assert.equal(refused, "EBUSY");
    assert.deepEqual(await mine.read(), [1, 3]);
    await session.call("unlink", { path });
  });
});

test("who watches a directory hears what happens in it", async () => {
  await inSession(client, async (session) => {
    const path = `/tmp/watched-${session.pid}`;
    await session.call("mkdir", { path });
    const heard: string[] = [];
    const enough = new AbortController();
    const watching = watch(session, path, ({ kind, path: name }) => {
      heard.push(`${kind} ${name.slice(path.length)}`);
      if (kind === "delete") enough.abort();
    }, enough.signal);

    const file = await open(session, { tokens: [1] });
    await file.link(`${path}/a`);
    await session.call("unlink", { path: `${path}/a` });
    await watching;

    assert.deepEqual(heard, ["create /a", "delete /a"]);
    await session.call("rmdir", { path });
  });
});
