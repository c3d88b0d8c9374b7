/** A client of Symphony (src/index.ts). */
export { channel, Channel, Message, type ChannelChoice } from "./channel.js";
export { Client, type ClientChoice } from "./client.js";
export { SymphonyError, retry } from "./error.js";
export { Generation, type Completion, type Piece } from "./generation.js";
export * from "./lip.js";
export { Session, type SessionChoice } from "./session.js";
