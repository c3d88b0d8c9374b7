import assert from "node:assert/strict";
import { test } from "node:test";

import { CREAT, open, RDWR, Session } from "../src/index.js";
import { Connection } from "../src/connection.js";
import type { SymphonyError } from "../src/error.js";
import { connect, inSession } from "./server.js";

const client = connect();

test("a session is a process of its own, listed by its name, and gone after its exit", async () => {
  const session = await Session.open(client, { name: "afar" });
  assert.equal((await session.call("getpid", {})).pid, session.pid);
  assert.equal((await client.ps(session.pid))[0]?.name, "afar");

  await session.exit({ answer: 42 }, 3);

  const { exit } = await client.wait(session.pid);
  assert.deepEqual([exit?.code, exit?.reason, exit?.value], [3, "exit", '{"answer":42}']);
  await assert.rejects(session.call("getpid", {}), { reason: "ESRCH" });
});

test("an error of a call is its answer, and the session goes on", async () => {
  await inSession(client, async (session) => {
    await assert.rejects(open(session, { path: "/nowhere" }), { reason: "ENOENT", retryable: false });
    await assert.rejects(session.call("close", { fd: 99 }), { reason: "EBADF" });

    assert.equal((await session.call("getpid", {})).pid, session.pid);
  });
});

test("calls in flight at the same time are answered each with its own result", async () => {
  await inSession(client, async (session) => {
    const texts = Array.from({ length: 100 }, (_, i) => `text ${i}`);

    const answers = await Promise.all(texts.map((text) => session.call("tokenize", { text, special: false })));
    const back = await Promise.all(answers.map(({ tokens }) => session.call("detokenize", { tokens })));

    assert.deepEqual(back.map(({ text }) => text), texts);
  });
});

test("an aborted call ends with EINTR at the server", async () => {
  await inSession(client, async (session) => {
    const abort = new AbortController();
    const sleeping = session.call("sleep", { seconds: 3600 }, { signal: abort.signal });

    abort.abort();

    await assert.rejects(sleeping, { reason: "EINTR" });
  });
});

test("a busy file is told at once without a request id, and waited for with one", async () => {
  await inSession(client, async (session) => {
    const file = await open(session, { tokens: [1, 2, 3] });
    const generation = file.generate({ maxTokens: 4000, ignoreEos: true });
    const append = (requestId?: string) => session.call("append", { fd: file.fd, tokens: Buffer.from([9, 0, 0, 0]) }, { requestId });

    await assert.rejects(append(), { reason: "EBUSY", retryable: true });
    const appended = append("nine");
    generation.cancel();

    const { length } = await appended;
    assert.deepEqual((await file.read(length - 1)), [9]);
    assert.equal((await append("nine")).length, length);
  });
});

test("a file with a name outlives the session that made it", async () => {
  const path = `/tmp/typescript-${process.pid}`;
  await inSession(client, async (session) => {
    const file = await open(session, { tokens: [5, 6, 7], path, flags: RDWR | CREAT });
    await file.close();
  });

  await inSession(client, async (session) => {
    assert.deepEqual(await (await open(session, { path })).read(), [5, 6, 7]);
    await session.call("unlink", { path });
  });
});

test("a session whose connection another one takes over ends with EPIPE", async () => {
  const session = await Session.open(client);
  const waiting = session.call("sleep", { seconds: 3600 });
  const cutOff = assert.rejects(waiting, (error: SymphonyError) => error.reason === "EPIPE" && !error.lost);

  const other = await new Promise<Connection>((resolve, reject) => {
    const { pid, resume } = session;
    const made = new Connection(client, { pid, resume, received: 0 }, { connected: () => resolve(made), take: () => undefined, lost: reject });
  });

  await cutOff;
  other.send({ id: 2, exit: {} }, 0);
  assert.equal((await client.wait(session.pid)).exit?.reason, "exit");
  other.close();
});

test("a session with a lease that is none is refused", async () => {
  await assert.rejects(Session.open(client, { leaseS: 0 }), { reason: "EINVAL", values: { lease_s: 0 } });
});
