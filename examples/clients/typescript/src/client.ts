/**
 * A server, and what it does without a session (src/client.ts): looking at it, and programs that run at it.
 *
 *     const client = new Client("unix:/run/user/1000/symphony/symphony.sock");
 *     for await (const part of client.run({ source })) ...      leaving the loop ends the program
 *
 * What changes something carries a request id, so each of these calls is retried where that helps and happens once.
 */
import { type CallOptions, type ChannelCredentials, credentials, Metadata, type requestCallback, type ClientUnaryCall } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";

import type { ChannelServiceClient } from "../gen/symphony/v1/ChannelService.js";
import type { FileServiceClient } from "../gen/symphony/v1/FileService.js";
import type { GetInfoResponse__Output } from "../gen/symphony/v1/GetInfoResponse.js";
import type { ListProcessesResponse__Output } from "../gen/symphony/v1/ListProcessesResponse.js";
import type { PingResponse__Output } from "../gen/symphony/v1/PingResponse.js";
import type { ProcessServiceClient } from "../gen/symphony/v1/ProcessService.js";
import type { ProcessStat__Output } from "../gen/symphony/v1/ProcessStat.js";
import type { Program } from "../gen/symphony/v1/Program.js";
import type { RegistryServiceClient } from "../gen/symphony/v1/RegistryService.js";
import type { RunResponse__Output } from "../gen/symphony/v1/RunResponse.js";
import type { SessionServiceClient } from "../gen/symphony/v1/SessionService.js";
import type { SpawnResponse__Output } from "../gen/symphony/v1/SpawnResponse.js";
import type { SystemServiceClient } from "../gen/symphony/v1/SystemService.js";
import type { ToolServiceClient } from "../gen/symphony/v1/ToolService.js";
import type { WaitResponse__Output } from "../gen/symphony/v1/WaitResponse.js";
import { fromRpc, retry, SymphonyError } from "./error.js";
import { ABI, services } from "./proto.js";

const PIECE_BYTES = 1 << 16; // of standard input

const CHANNEL = {
  "grpc.initial_reconnect_backoff_ms": 50, // the session's own backoff decides; the channel shall not be slower
  "grpc.max_reconnect_backoff_ms": 1000,
  "grpc.max_receive_message_length": 64 << 20,
};

/** Whom to call, and for how long. */
export interface CallChoice {
  /** Aborting it cancels the call. */
  signal?: AbortSignal;
  /** The call ends with ETIMEDOUT after so many milliseconds. */
  timeoutMs?: number;
}

export interface ClientChoice {
  /** `sym_...`; on a unix socket none is needed. */
  token?: string;
  /** How to reach a TCP address: TLS unless the address is this machine's. */
  credentials?: ChannelCredentials;
}

type Unary<Response> = (metadata: Metadata, options: CallOptions, done: requestCallback<Response>) => ClientUnaryCall;

export class Client {
  readonly sessions: SessionServiceClient;
  /** Files by name, as the protos have them: `client.unary((...rest) => client.files.mkdir({ path, requestId }, ...rest))`. */
  readonly files: FileServiceClient;
  /** Installed programs, in the same way. */
  readonly registry: RegistryServiceClient;
  /** Channels, for who has no session. */
  readonly channels: ChannelServiceClient;
  /** The tools that programs may be given. */
  readonly tools: ToolServiceClient;
  readonly metadata = new Metadata();
  private readonly processes: ProcessServiceClient;
  private readonly system: SystemServiceClient;

  /** `address`: `unix:PATH` or `HOST:PORT`. Connects when the first call is made. */
  constructor(address: string, choice: ClientChoice = {}) {
    this.metadata.set("symphony-abi", `${ABI.abiMajor}.${ABI.abiMinor}`);
    if (choice.token) this.metadata.set("authorization", `Bearer ${choice.token}`);
    const isLocal = /^(unix:|127\.|localhost:|\[::1\]:)/.test(address);
    const how = choice.credentials ?? (isLocal ? credentials.createInsecure() : credentials.createSsl());
    this.sessions = new services.SessionService(address, how, CHANNEL);
    const channelOverride = this.sessions.getChannel();
    this.files = new services.FileService(address, how, { channelOverride });
    this.registry = new services.RegistryService(address, how, { channelOverride });
    this.channels = new services.ChannelService(address, how, { channelOverride });
    this.tools = new services.ToolService(address, how, { channelOverride });
    this.processes = new services.ProcessService(address, how, { channelOverride });
    this.system = new services.SystemService(address, how, { channelOverride });
  }

  /** Seconds that the way to the kernel and back took. */
  async ping(choice?: CallChoice): Promise<number> {
    const { kernelS } = await this.unary<PingResponse__Output>((...rest) => this.system.ping({}, ...rest), choice);
    return kernelS;
  }

  /** Versions, model, memory and counters. */
  info(choice?: CallChoice): Promise<GetInfoResponse__Output> {
    return this.unary((...rest) => this.system.getInfo({}, ...rest), choice);
  }

  /** The processes that the caller may see, by pid; or one. */
  async ps(pid?: number, choice?: CallChoice): Promise<ProcessStat__Output[]> {
    const { processes } = await this.unary<ListProcessesResponse__Output>((...rest) => this.processes.listProcesses({ pid }, ...rest), choice);
    return processes;
  }

  /** Start a program that outlives the caller; its pid. */
  async spawn(program: Program, { requestId = randomUUID(), ...choice }: CallChoice & { requestId?: string } = {}): Promise<number> {
    const { pid } = await this.unary<SpawnResponse__Output>((...rest) => this.processes.spawn({ program, requestId }, ...rest), choice);
    return pid;
  }

  /** How a process ended, as soon as it has. */
  wait(pid: number, { timeoutS, ...choice }: CallChoice & { timeoutS?: number } = {}): Promise<WaitResponse__Output> {
    return this.unary((...rest) => this.processes.wait({ pid, timeoutS }, ...rest), choice);
  }

  /** Ask a process to end, end it, hold it, or let it go on. */
  async kill(pid: number, signal: "TERM" | "KILL" | "STOP" | "CONT" = "TERM", choice?: CallChoice): Promise<void> {
    const request = { pid, signal: `SIGNAL_${signal}` as const, requestId: randomUUID() };
    await this.unary((...rest) => this.processes.kill(request, ...rest), choice);
  }

  /** Write to the standard input of a program that was started with `stdin`; waits while it has too much unread. */
  async feed(pid: number, data: Uint8Array | string, { eof = false, ...choice }: CallChoice & { eof?: boolean } = {}): Promise<void> {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    for (let at = 0; at === 0 || at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      const request = { pid, data: piece, eof: eof && at + PIECE_BYTES >= bytes.length, requestId: randomUUID() };
      for (;;) {
        try {
          await this.unary((...rest) => this.processes.feed(request, ...rest), choice);
          break;
        } catch (error) {
          if (!(error instanceof SymphonyError && error.reason === "EAGAIN")) throw error;
        }
      }
    }
  }

  /** Run a program and stream what it prints: its pid first, how it ended last. Leaving the loop cancels the program. */
  async *run(program: Program, choice: CallChoice = {}): AsyncGenerator<RunResponse__Output, void, undefined> {
    const stream = this.processes.run({ program, requestId: randomUUID() }, this.metadata, options(choice));
    const cancel = () => cancelSoon(stream);
    choice.signal?.addEventListener("abort", cancel, { once: true });
    stream.on("error", () => undefined); // a stream that was left has nobody else to tell
    try {
      for await (const part of stream) yield part as RunResponse__Output;
    } catch (error) {
      throw fromRpc(error as Parameters<typeof fromRpc>[0]);
    } finally {
      choice.signal?.removeEventListener("abort", cancel);
      cancel();
    }
  }

  /** One unary RPC, retried where that helps. It must be a read, or carry a request id. */
  unary<Response>(start: Unary<Response>, choice: CallChoice = {}): Promise<Response> {
    return retry(() => this.once(start, choice), choice);
  }

  /** Let go of the server. */
  close(): void {
    this.sessions.close();
  }

  private once<Response>(start: Unary<Response>, choice: CallChoice): Promise<Response> {
    return new Promise((resolve, reject) => {
      const call = start(this.metadata, options(choice), (error, response) => {
        choice.signal?.removeEventListener("abort", cancel);
        if (error) reject(fromRpc(error));
        else resolve(response!);
      });
      const cancel = () => cancelSoon(call);
      if (choice.signal?.aborted) cancel();
      else choice.signal?.addEventListener("abort", cancel, { once: true });
    });
  }
}

/**
 * Cancel an RPC, a turn later: grpc-js (1.14) forgets a cancel in the turn that made the call, which then goes on at the server.
 */
export function cancelSoon(call: { cancel(): void }): void {
  setImmediate(() => call.cancel());
}

function options({ timeoutMs }: CallChoice): CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}
