/**
 * Channels as a remote program holds them (src/channel.ts): Python's `lip.channel`, in bytes.
 *
 *     const jobs = await channel(session, "jobs", { create: true, access: "r" });
 *     const job = await jobs.recv();                      the next message; a request is answered once
 *     await job.respond(new TextEncoder().encode("done"));
 */
import type { Message__Output } from "../gen/symphony/v1/Message.js";
import { CREAT } from "./lip.js";
import type { Session } from "./session.js";

export interface ChannelChoice {
  /** Make it if it is not there; what follows counts then. */
  create?: boolean;
  /** What the handle is for. */
  access?: "r" | "w" | "rw";
  /** A queue gives each message to one receiver, a topic to all who listen. */
  kind?: "queue" | "topic";
  capacity?: number;
  overflow?: "block" | "drop_oldest" | "drop_new";
}

/** Open the channel of that name; without a name make one that lives while it is open. */
export async function channel(session: Session, name = "", { create = false, ...choice }: ChannelChoice = {}): Promise<Channel> {
  const { ch } = await session.call("channelOpen", { ...choice, name, flags: create ? CREAT : 0 });
  return new Channel(session, ch);
}

/** A message that was received. */
export class Message {
  readonly data: Uint8Array;

  constructor(
    private readonly session: Session,
    readonly head: Message__Output,
  ) {
    this.data = head.data;
  }

  get text(): string {
    return new TextDecoder().decode(this.data);
  }

  /** Answer a request; once. */
  async respond(data: Uint8Array): Promise<void> {
    await this.session.call("respond", { token: this.head.token, data });
  }
}

/** An open channel. */
export class Channel {
  constructor(
    readonly session: Session,
    readonly ch: number,
  ) {}

  /** Send a message; waits while the queue is full. How many queues took it. */
  async send(data: Uint8Array): Promise<number> {
    return (await this.session.call("send", { ch: this.ch, data })).numReceivers;
  }

  /** The next message; ETIMEDOUT when none comes for `timeoutS`. */
  async recv(timeoutS?: number): Promise<Message> {
    return new Message(this.session, (await this.session.call("recv", { ch: this.ch, timeoutS })).message!);
  }

  /** Send a message and wait for its answer. */
  async request(data: Uint8Array, timeoutS?: number): Promise<Message> {
    return new Message(this.session, (await this.session.call("request", { ch: this.ch, data, timeoutS })).message!);
  }

  /** Let go of it. */
  async close(): Promise<void> {
    await this.session.call("channelClose", { ch: this.ch });
  }
}
