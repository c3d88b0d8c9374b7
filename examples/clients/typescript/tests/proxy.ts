/**
 * A wire that breaks (tests/proxy.ts): between client and server, it cuts each connection after so many bytes, in the middle of
 * whatever passes by, and can refuse new ones.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, connect as dial, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Proxy {
  numCuts = 0;
  isOpen = true;
  readonly path: string;
  private readonly folder = mkdtempSync(join(tmpdir(), "wire-"));
  private readonly server: Server;
  private readonly wires = new Set<Socket>();

  /** `budget()` says after how many bytes, both ways together, a new connection is cut. */
  private constructor(
    private readonly target: string,
    private readonly budget: () => number,
  ) {
    this.path = join(this.folder, "wire.sock");
    this.server = createServer((near) => this.join(near));
  }

  static async open(target: string, budget: () => number = () => Infinity): Promise<Proxy> {
    const proxy = new Proxy(target, budget);
    await new Promise<void>((resolve) => proxy.server.listen(proxy.path, resolve));
    return proxy;
  }

  /** Break all connections now. */
  cut(): void {
    for (const wire of this.wires) wire.destroy();
  }

  close(): void {
    this.cut();
    this.server.close();
    rmSync(this.folder, { recursive: true });
  }

  private join(near: Socket): void {
    if (!this.isOpen) return void near.destroy();
    const far = dial(this.target);
    let left = this.budget();
    const carry = (from: Socket, to: Socket) => {
      this.wires.add(from);
      from.on("error", () => undefined);
      from.on("close", () => {
        this.wires.delete(from);
        to.destroy();
      });
      from.on("data", (data: Buffer) => {
        to.write(data.subarray(0, left));
        left -= data.length;
        if (left >= 0) return;
        this.numCuts++;
        far.end(); // what was written still arrives, as on a wire
        near.end();
        from.destroy();
      });
    };
    carry(near, far);
    carry(far, near);
  }
}

/** Numbers between `low` and `high` by chance, the same for the same seed (mulberry32). */
export function chance(seed: number, low: number, high: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return low + Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * (high - low));
  };
}
