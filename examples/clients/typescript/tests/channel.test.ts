import assert from "node:assert/strict";
import { test } from "node:test";

import { channel } from "../src/index.js";
import { connect, inSession } from "./server.js";

const client = connect();
const bytes = (text: string) => new TextEncoder().encode(text);

test("two sessions talk over a channel, byte by byte and in order", async () => {
  await inSession(client, async (ours) => {
    await inSession(client, async (theirs) => {
      const out = await channel(ours, "ts-queue", { create: true, access: "w", capacity: 4 });
      const back = await channel(theirs, "ts-queue", { access: "r" });

      await out.send(new Uint8Array([255, 0]));
      await out.send(bytes("two"));

      assert.deepEqual([...(await back.recv()).data], [255, 0]);
      assert.equal((await back.recv()).text, "two");
      await ours.call("channelUnlink", { name: "ts-queue" });
    });
  });
});

test("a request gets its answer, and only once", async () => {
  await inSession(client, async (session) => {
    const asking = await channel(session);
    const answering = asking.recv().then(async (message) => {
      await message.respond(bytes(message.text.toUpperCase()));
      return message;
    });

    assert.equal((await asking.request(bytes("hello"))).text, "HELLO");
    await assert.rejects((await answering).respond(bytes("again")));
  });
});

test("a recv that nothing comes for ends after its time", async () => {
  await inSession(client, async (session) => {
    const empty = await channel(session);

    await assert.rejects(empty.recv(0.01), { reason: "ETIMEDOUT" });
    await empty.close();
  });
});
