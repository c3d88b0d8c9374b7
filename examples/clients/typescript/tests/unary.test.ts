import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { SymphonyError } from "../src/index.js";
import { connect } from "./server.js";

const client = connect();
const SLEEPER = "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(3600)\n";

test("ping and info tell of the server", async () => {
  assert.ok((await client.ping()) >= 0);

  const info = await client.info();

  assert.equal(info.abiMajor, 1);
  assert.ok(info.abiMinor >= 1);
});

test("a spawned program is listed, waited for and killed", async () => {
  const pid = await client.spawn({ source: SLEEPER, name: "sleeper" });
  const [listed] = await client.ps(pid);
  assert.equal(listed?.name, "sleeper");

  await client.kill(pid, "KILL");

  const { exit } = await client.wait(pid);
  assert.equal(exit?.code, 137);
});

test("a spawn that is repeated with its request id starts one program", async () => {
  const program = { source: "async def main():\n    return 7\n" };
  const requestId = randomUUID();

  const first = await client.spawn(program, { requestId });
  const second = await client.spawn(program, { requestId });

  assert.equal(second, first);
  assert.equal((await client.wait(first)).exit?.value, "7");
});

test("an error carries its reason, its message and its values", async () => {
  await assert.rejects(client.wait(9_999_999), (error: unknown) => {
    assert.ok(error instanceof SymphonyError);
    assert.equal(error.reason, "ESRCH");
    assert.equal(error.message, "no such process: 9999999");
    assert.deepEqual(error.values, { pid: 9_999_999 });
    assert.equal(error.retryable, false);
    return true;
  });
});

test("a time limit at the server and a deadline at the client are both ETIMEDOUT", async () => {
  const pid = await client.spawn({ source: SLEEPER });

  await assert.rejects(client.wait(pid, { timeoutS: 0.01 }), { reason: "ETIMEDOUT", values: { pid } });
  await assert.rejects(client.wait(pid, { timeoutMs: 10 }), { reason: "ETIMEDOUT" });

  await client.kill(pid, "KILL");
});

test("an aborted call is EINTR and leaves the process alone", async () => {
  const pid = await client.spawn({ source: SLEEPER });
  const abort = new AbortController();
  const waiting = client.wait(pid, { signal: abort.signal });

  abort.abort();

  await assert.rejects(waiting, { reason: "EINTR" });
  assert.equal((await client.ps(pid))[0]?.exit, null);
  await client.kill(pid, "KILL");
});
