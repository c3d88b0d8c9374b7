/**
 * How long calls of a session take from here, one after the other (bench.ts).
 *
 *     node dist/bench.js --socket PATH --calls N --json
 *     {"getpid": [...], "forward": [...]}        raw samples in ms: a control call, a forward of one token
 */
import { parseArgs } from "node:util";

import { Client, open, Session } from "./src/index.js";

const WARM_UP = 20;
const FILE_LENGTH = 512; // cut back there, so that no limit of the model is met

async function samples(calls: number, call: () => Promise<unknown>, rest: () => Promise<unknown> = async () => undefined): Promise<number[]> {
  const taken: number[] = [];
  for (let n = -WARM_UP; n < calls; n++) {
    const began = performance.now();
    await call();
    if (n >= 0) taken.push(performance.now() - began);
    await rest();
  }
  return taken;
}

const { values } = parseArgs({
  options: { socket: { type: "string" }, calls: { type: "string", default: "1000" }, json: { type: "boolean", default: false } },
});
const calls = Number(values.calls);
if (!values.socket || !Number.isInteger(calls) || calls < 1) throw new Error("usage: node dist/bench.js --socket PATH [--calls N] [--json]");

const client = new Client(`unix:${values.socket}`);
const session = await Session.open(client, { name: "bench.ts" });
try {
  const file = await open(session, { tokens: [1] });
  const getpid = await samples(calls, () => session.call("getpid", {}));
  const forward = await samples(
    calls,
    () => file.forward([1]),
    async () => file.length < FILE_LENGTH || file.truncate(1),
  );
  if (values.json) console.log(JSON.stringify({ getpid, forward }));
  else for (const [name, all] of Object.entries({ getpid, forward })) console.log(name, median(all).toFixed(3), "ms");
} finally {
  await session.exit();
  client.close();
}

function median(all: number[]): number {
  return [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)]!;
}
