import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import assert from "node:assert/strict";
import { test } from "node:test";

import { fromAnswer, fromRpc, retry, SymphonyError } from "../src/error.js";
import { rpc } from "../src/proto.js";

function packed(name: "ErrorInfo" | "RetryInfo", value: object): { type_url: string; value: Buffer } {
  return { type_url: `type.googleapis.com/google.rpc.${name}`, value: rpc[name].serialize(value) };
}

function failed(code: status, details: { type_url: string; value: Buffer }[] = []): ServiceError {
  const metadata = new Metadata();
  if (details.length) metadata.set("grpc-status-details-bin", rpc.Status.serialize({ code, message: "no page is free", details }));
  return Object.assign(new Error("rpc"), { code, details: "rpc", metadata });
}

test("a status with ErrorInfo and RetryInfo becomes a typed error that says when to come again", () => {
  const info = packed("ErrorInfo", { reason: "ENOSPC", domain: "symphony", metadata: { pages: "12", path: "/kb" } });
  const again = packed("RetryInfo", { retryDelay: { seconds: 1, nanos: 500_000_000 } });

  const error = fromRpc(failed(status.RESOURCE_EXHAUSTED, [info, again]));

  assert.equal(error.reason, "ENOSPC");
  assert.equal(error.message, "no page is free");
  assert.deepEqual(error.values, { pages: 12, path: "/kb" });
  assert.equal(error.retryAfterMs, 1500);
  assert.equal(error.retryable, true);
});

test("a full cache is not retried when the server does not say when", () => {
  const error = fromRpc(failed(status.RESOURCE_EXHAUSTED, [packed("ErrorInfo", { reason: "ENOSPC", domain: "symphony" })]));

  assert.equal(error.retryable, false);
});

test("a rate limit says when to come again, and nobody waits for a day", () => {
  const info = packed("ErrorInfo", { reason: "EDQUOT", domain: "symphony" });
  const after = (seconds: number) => packed("RetryInfo", { retryDelay: { seconds, nanos: 0 } });

  assert.equal(fromRpc(failed(status.RESOURCE_EXHAUSTED, [info, after(1)])).retryable, true);
  assert.equal(fromRpc(failed(status.RESOURCE_EXHAUSTED, [info, after(86_400)])).retryable, false);
  assert.equal(fromRpc(failed(status.RESOURCE_EXHAUSTED, [info])).retryable, false);
});

test("an error of another domain is a lost call", () => {
  const error = fromRpc(failed(status.UNAVAILABLE, [packed("ErrorInfo", { reason: "X", domain: "elsewhere" })]));

  assert.deepEqual([error.reason, error.lost, error.retryable], ["EPIPE", true, false]);
});

test("the values of an answer's error are JSON", () => {
  const error = fromAnswer({ reason: "ENOENT", message: "no such file: /a", values: { path: '"/a"', num_files: "3" } });

  assert.deepEqual(error.values, { path: "/a", num_files: 3 });
  assert.equal(error.retryAfterMs, null);
});

test("retry gives up on what no waiting mends, and on the last attempt", async () => {
  let numCalls = 0;
  const failing = (reason: string) => async () => {
    numCalls++;
    throw new SymphonyError(reason, "no", {}, reason === "ENOENT" ? null : 0);
  };

  await assert.rejects(retry(failing("ENOENT")), { reason: "ENOENT" });
  assert.equal(numCalls, 1);
  await assert.rejects(retry(failing("EAGAIN"), { attempts: 3 }), { reason: "EAGAIN" });
  assert.equal(numCalls, 4);
});
