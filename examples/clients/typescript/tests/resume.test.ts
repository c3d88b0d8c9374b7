import assert from "node:assert/strict";
import { after, test } from "node:test";

import { open, type Piece, renderChat, Session } from "../src/index.js";
import { chance, Proxy } from "./proxy.js";
import { connect, inSession, SOCKET } from "./server.js";

const SEED = Number(process.env.SYMPHONY_SEED ?? 1);
const NUM_APPENDS = 400;
const NUM_TOKENS = 120;

const direct = connect();

/** A client on a wire that breaks after a random number of bytes, again and again: enough for a hello, at times for little more. */
async function onBreakingWire(): Promise<{ proxy: Proxy; session: Session }> {
  const proxy = await Proxy.open(SOCKET, chance(SEED, 900, 4000));
  after(() => proxy.close());
  return { proxy, session: await Session.open(connect(proxy.path), { leaseS: 30 }) };
}

test(`calls in flight while the wire breaks happen once and are answered in truth (seed ${SEED})`, async () => {
  const { proxy, session } = await onBreakingWire();
  const file = await open(session, { tokens: [0] });
  const tokens = Array.from({ length: NUM_APPENDS }, (_, i) => i % 200);

  const lengths: number[] = [];
  await Promise.all(
    tokens.map(async (token) => {
      const packed = Buffer.from([token, 0, 0, 0]);
      lengths.push((await session.call("append", { fd: file.fd, tokens: packed })).length);
    }),
  );

  assert.deepEqual(lengths, tokens.map((_, i) => i + 2));
  assert.deepEqual(await file.read(1), tokens);
  assert.ok(proxy.numCuts > 3, `only ${proxy.numCuts} cuts`);
  await session.exit();
});

test(`a loop of forwards over a breaking wire picks what it picks over a whole one (seed ${SEED})`, async () => {
  async function loop(session: Session): Promise<number[]> {
    const chat = await open(session, { tokens: await renderChat(session, "hi") });
    const start = chat.length;
    let dist = await chat.forward();
    for (let n = 0; n < NUM_TOKENS; n++) dist = await chat.forward([dist.top1]);
    return chat.read(start);
  }
  const { proxy, session } = await onBreakingWire();

  const picked = await loop(session);

  assert.deepEqual(picked, await inSession(direct, loop));
  assert.ok(proxy.numCuts > 3, `only ${proxy.numCuts} cuts`);
  await session.exit();
});

test(`a stream over a breaking wire has each part once (seed ${SEED})`, async () => {
  const { proxy, session } = await onBreakingWire();
  const file = await open(session, { tokens: [1, 2, 3] });
  const pieces: Piece[] = [];

  const generation = file.generate({ maxTokens: 400, ignoreEos: true });
  for await (const piece of generation) pieces.push(piece);

  const { tokens } = await generation.completion;
  assert.equal(tokens.length, 400);
  assert.deepEqual(pieces.flatMap((p) => p.tokens), tokens);
  assert.deepEqual(await file.read(3), tokens);
  assert.ok(proxy.numCuts > 1, `only ${proxy.numCuts} cuts`);
  await session.exit();
});

test("calls made while nobody is connected wait for the connection", async () => {
  const proxy = await Proxy.open(SOCKET);
  after(() => proxy.close());
  const session = await Session.open(connect(proxy.path), { leaseS: 30 });
  proxy.isOpen = false;
  proxy.cut();

  const asked = session.call("getpid", {});
  proxy.isOpen = true;

  assert.equal((await asked).pid, session.pid);
  await session.exit();
});

test("a session that nobody connects to for its lease ends, and its calls with ESRCH", async () => {
  const proxy = await Proxy.open(SOCKET);
  after(() => proxy.close());
  const session = await Session.open(connect(proxy.path), { leaseS: 0.2 });
  const asleep = assert.rejects(session.call("sleep", { seconds: 3600 }), { reason: "ESRCH" });
  proxy.isOpen = false;
  proxy.cut();

  const { exit } = await direct.wait(session.pid);
  proxy.isOpen = true;

  assert.equal(exit?.reason, "lease");
  await asleep;
  await assert.rejects(session.call("getpid", {}), { reason: "ESRCH" });
});
