// The back end of docs/how-to/client-tokens.md in TypeScript, as it stands there.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

test("a Next.js route hands out what the bridge makes, and says when it makes nothing", async () => {
  const asked: { url: string | undefined; authorization: string | undefined; body: string }[] = [];
  let status = 201;
  const bridge = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk));
    request.on("end", () => {
      asked.push({ url: request.url, authorization: request.headers.authorization, body });
      response.writeHead(status, { "Content-Type": "application/json" });
      response.end(JSON.stringify({ token: "ek_1", expires_at: 5 }));
    });
  });
  await new Promise<void>((listens) => bridge.listen(0, "127.0.0.1", listens));
  process.env.BRIDGE_URL = `http://127.0.0.1:${(bridge.address() as AddressInfo).port}`;
  process.env.BRIDGE_KEY = "sk_TEST01_my0Secret1Token2Value3";
  try {
    const { POST } = await import("../../../examples/backends/next_route.ts");
    const answer = await POST();
    assert.equal(answer.status, 200);
    assert.deepEqual(await answer.json(), { token: "ek_1", expires_at: 5 });
    assert.equal(asked[0]?.url, "/v1/tokens");
    assert.equal(asked[0]?.authorization, `Bearer ${process.env.BRIDGE_KEY}`);
    assert.deepEqual(Object.keys(JSON.parse(asked[0]?.body ?? "") as object).sort(), [
      "expires_in",
      "max_session",
      "max_sessions",
      "origins",
    ]);
    status = 429;
    assert.equal((await POST()).status, 503);
  } finally {
    bridge.close();
    bridge.closeAllConnections();
  }
});
