/** Packed arrays (src/packed.ts): 4 bytes to a value, little-endian, whatever the machine's own order. */

/** Token ids, positions or indices as the wire has them. */
export function packTokens(tokens: Iterable<number>): Buffer {
  const ids = Array.from(tokens);
  const data = Buffer.allocUnsafe(ids.length * 4);
  ids.forEach((id, i) => data.writeUInt32LE(id, i * 4));
  return data;
}

/** The ids in packed bytes. */
export function unpackTokens(data: Buffer): number[] {
  return Array.from({ length: data.length / 4 }, (_, i) => data.readUInt32LE(i * 4));
}

/** The float32 values in packed bytes: log-probabilities, logits. */
export function unpackFloats(data: Buffer): number[] {
  return Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(i * 4));
}
