/**
 * A program that owns its decoding loop, far from the server: forward, pick, forward (examples/loop.ts).
 *
 *     node dist/examples/loop.js unix:/run/user/1000/symphony/symphony.sock "Tell me a story about the sea."
 *
 * It takes the model's favourite where it is sure and draws freely where it is not; the session survives a lost connection.
 */
import { Client, detokenize, modelInfo, open, renderChat, Session } from "../src/index.js";

const MAX_TOKENS = 64;
const SURE = 0.7;

async function main(address: string, question: string): Promise<string> {
  const client = new Client(address, { token: process.env.SYMPHONY_TOKEN });
  const session = await Session.open(client, { leaseS: 30, name: "loop.ts" });
  try {
    const { eosTokens } = await modelInfo(session);
    const chat = await open(session, { tokens: await renderChat(session, question) });
    const start = chat.length;
    let dist = await chat.forward();
    for (let n = 0; n < MAX_TOKENS; n++) {
      const token = await dist.sample(dist.p >= SURE ? undefined : { temperature: 1.2, topK: 10, seed: 1 });
      if (eosTokens.includes(token)) break;
      dist = await chat.forward([token]);
    }
    return await detokenize(session, await chat.read(start));
  } finally {
    await session.exit();
    client.close();
  }
}

const [address, question = "Tell me a story about the sea."] = process.argv.slice(2);
if (address) console.log(await main(address, question));
else console.error("usage: node dist/examples/loop.js ADDRESS [QUESTION]");
