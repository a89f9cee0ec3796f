// app/api/token/route.ts of a Next.js app: gives its users client tokens.

const { BRIDGE_URL, BRIDGE_KEY } = process.env; // https://bridge.example.org, and sk_…, made with --scopes tokens

export const dynamic = "force-dynamic"; // a token is never cached

/** One token for one user, who has logged in: check that here. */
export async function POST(): Promise<Response> {
  const answer = await fetch(`${BRIDGE_URL}/v1/tokens`, {
    method: "POST",
    headers: { Authorization: `Bearer ${BRIDGE_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({
      expires_in: 60,
      max_sessions: 1,
      max_session: 600,
      origins: ["https://app.example.org"],
    }),
    cache: "no-store",
  });
  if (answer.status !== 201) return Response.json({ error: "no token could be made" }, { status: 503 });
  return Response.json(await answer.json());
}
