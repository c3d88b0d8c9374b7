/**
 * One Connect RPC (src/connection.ts): a hello each way, then calls there and numbered messages back, until it is lost.
 *
 * It calls its owner as things happen, in their order, and never again once it said `lost` or was closed.
 */
import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";

import type { Call } from "../gen/symphony/v1/Call.js";
import type { ConnectRequest } from "../gen/symphony/v1/ConnectRequest.js";
import type { ConnectResponse__Output } from "../gen/symphony/v1/ConnectResponse.js";
import type { Hello } from "../gen/symphony/v1/Hello.js";
import type { HelloResult__Output } from "../gen/symphony/v1/HelloResult.js";
import { cancelSoon, type Client } from "./client.js";
import { fromRpc, SymphonyError } from "./error.js";
import { ABI } from "./proto.js";

const FEATURES = ["request-id", "sessions"];

/** Who hears what comes. */
export interface Owner {
  connected(hello: HelloResult__Output): void;
  take(message: ConnectResponse__Output): void;
  lost(error: SymphonyError): void;
}

export class Connection {
  private readonly stream: ClientDuplexStream<ConnectRequest, ConnectResponse__Output>;
  private owner: Owner | null;

  constructor(client: Client, hello: Hello, owner: Owner) {
    this.owner = owner;
    this.stream = client.sessions.connect(client.metadata);
    this.stream.on("data", (message: ConnectResponse__Output) => this.received(message));
    this.stream.on("error", (error: ServiceError) => this.ended(fromRpc(error)));
    this.stream.on("end", () => this.ended(new SymphonyError("EPIPE", "the server hung up", {}, null, true)));
    this.stream.write({ hello: { ...ABI, features: FEATURES, ...hello } });
  }

  /** Send a call, and with it that all messages up to `ack` are here. */
  send(call: Call, ack: number): void {
    this.stream.write({ call, ack });
  }

  /** Say that all messages up to `ack` are here. */
  acknowledge(ack: number): void {
    this.stream.write({ ack });
  }

  /** Hang up. */
  close(): void {
    this.owner = null;
    cancelSoon(this.stream);
  }

  private received(message: ConnectResponse__Output): void {
    if (message.hello) this.owner?.connected(message.hello);
    else this.owner?.take(message);
  }

  private ended(error: SymphonyError): void {
    const owner = this.owner;
    this.close();
    owner?.lost(error);
  }
}
