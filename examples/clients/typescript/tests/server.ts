/** The server that the tests talk to (tests/server.ts): `symphony serve --device sim`, its socket in SYMPHONY_SOCKET. */
import { after } from "node:test";

import { Client, Session, type SessionChoice } from "../src/index.js";

const socket = process.env.SYMPHONY_SOCKET;
if (!socket) throw new Error("SYMPHONY_SOCKET is not set: start `symphony serve --device sim` and name its socket");

/** The socket's path. */
export const SOCKET: string = socket;

/** A client of the server; closed after the file's tests. */
export function connect(path = SOCKET): Client {
  const client = new Client(`unix:${path}`);
  after(() => client.close());
  return client;
}

/** Do something in a session that ends with it. */
export async function inSession<T>(client: Client, work: (session: Session) => Promise<T>, choice?: SessionChoice): Promise<T> {
  const session = await Session.open(client, choice);
  try {
    return await work(session);
  } finally {
    await session.exit();
  }
}
