import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./server.js";

const client = connect();

test("a run streams its pid, what it prints, and how it ended", async () => {
  const source = 'from vllm_symphony import lip\nasync def main(n):\n    for i in range(n):\n        print("line", i)\n    lip.emit({"n": n})\n    return n\n';
  const parts = [];

  for await (const part of client.run({ source, args: '{"n": 3}' })) parts.push(part);

  const events = parts.flatMap((part) => part.events);
  const printed = events.filter((e) => e.kind === "EVENT_KIND_STDOUT").map((e) => e.text);
  assert.ok(parts[0]!.pid > 0);
  assert.equal(printed.join(""), "line 0\nline 1\nline 2\n");
  assert.deepEqual(JSON.parse(events.find((e) => e.kind === "EVENT_KIND_EMIT")!.text), { n: 3 });
  assert.deepEqual(events.map((e) => e.seq), events.map((_, i) => i + 1));
  assert.equal(parts.at(-1)!.exit?.value, "3");
});

test("leaving a run's loop ends the program", async () => {
  const source = "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(3600)\n";
  let pid = 0;

  for await (const part of client.run({ source })) {
    pid = part.pid;
    break;
  }

  assert.equal((await client.wait(pid)).exit?.code, 130);
});

test("a program that raises is no error of the run", async () => {
  const parts = [];

  for await (const part of client.run({ source: "async def main():\n    raise ValueError('no')\n" })) parts.push(part);

  assert.equal(parts.at(-1)!.exit?.code, 1);
  assert.equal(parts.at(-1)!.exit?.error, "ValueError: no");
});

test("an empty program is ENOEXEC", async () => {
  await assert.rejects(client.run({ source: " " }).next(), { reason: "ENOEXEC", message: "the program is empty" });
});

test("a program reads what it is fed, however much, and its limits end it", async () => {
  const source = "import sys\nasync def main():\n    return len(sys.stdin.buffer.read())\n";
  const pid = await client.spawn({ source, stdin: true, limits: { tokens: 10 } });

  await client.feed(pid, new Uint8Array(3_000_000));
  await client.feed(pid, "end", { eof: true });

  assert.equal((await client.wait(pid)).exit?.value, "3000003");
});

test("a process is held by STOP and goes on by CONT", async () => {
  const pid = await client.spawn({ source: "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(3600)\n" });

  await client.kill(pid, "STOP");
  const held = (await client.ps(pid))[0]!.state;
  await client.kill(pid, "CONT");
  await client.kill(pid);

  assert.equal(held, "PROCESS_STATE_STOPPED");
  assert.equal((await client.wait(pid)).exit?.code, 130);
});

test("an installed program runs by its name", async () => {
  const source = "async def main(n: int):\n    return n + 1\n";
  const install = { name: "ts-next", version: "1.0", source, requestId: crypto.randomUUID() };
  await client.unary((...rest) => client.registry.install(install, ...rest));

  let value: string | undefined;
  for await (const { exit } of client.run({ program: "ts-next@1.0", args: '{"n": 4}' })) value = exit?.value;

  assert.equal(value, "5");
  await client.unary((...rest) => client.registry.uninstall({ program: "ts-next@1.0", requestId: crypto.randomUUID() }, ...rest));
});
