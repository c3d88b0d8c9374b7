/**
 * The protos, loaded (src/proto.ts): what speaks them at run time. Their types are generated into gen/ by `npm run build`.
 *
 * 64-bit numbers are JavaScript numbers: the ABI keeps ids below 2^53. Only times in nanoseconds lose their last few hundred.
 */
import { loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";

import type { ProtoGrpcType as ErrorProtos } from "../gen/google_rpc.js";
import type { ProtoGrpcType as ChannelProtos } from "../gen/channel.js";
import type { ProtoGrpcType as FileProtos } from "../gen/file.js";
import type { ProtoGrpcType as ProcessProtos } from "../gen/process.js";
import type { ProtoGrpcType as RegistryProtos } from "../gen/registry.js";
import type { ProtoGrpcType as SessionProtos } from "../gen/session.js";
import type { ProtoGrpcType as SystemProtos } from "../gen/system.js";
import type { ProtoGrpcType as ToolProtos } from "../gen/tool.js";

/** The ABI that this client speaks. */
export const ABI = { abiMajor: 1, abiMinor: 3 };

type Protos = ErrorProtos & ChannelProtos & FileProtos & ProcessProtos & RegistryProtos & SessionProtos & SystemProtos & ToolProtos;

const FILES = ["channel", "file", "process", "registry", "session", "system", "tool"].map((name) => `symphony/v1/${name}.proto`);

const definition = loadSync([...FILES, "google_rpc.proto"], {
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
  includeDirs: [fileURLToPath(new URL("../protos", import.meta.url))],
});
const protos = loadPackageDefinition(definition) as unknown as Protos;

/** The services of symphony.v1. */
export const services = protos.symphony.v1;

/** The messages that errors are made of. */
export const rpc = protos.google.rpc;

/** Read a message from its bytes. */
export function decode<Output>(type: MessageTypeDefinition<object, Output>, data: Uint8Array): Output {
  return type.deserialize(Buffer.from(data));
}
