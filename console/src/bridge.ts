import type { Model } from "rtcbridge";

/** The bridge that served this page, over HTTP. */

const STORED = "rtcbridge.key";

/** The bridge answered, and did not accept the key. */
export class KeyRefused extends Error {}

/** Where the bridge takes sockets. */
export function socketUrl(): string {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/client`;
}

/**
 * The key: from the fragment of the address (which is then cleaned), from this tab's storage, or from a bridge
 * that runs as a demo. Null when the user has to give one. Rejects with TypeError if the bridge is not reachable.
 */
export async function findKey(): Promise<string | null> {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    keepKey(given);
    return given;
  }
  return sessionStorage.getItem(STORED) ?? findDemoKey();
}

/** The key that a bridge gives away when it runs as a demo. Rejects as `findKey` does. */
export async function findDemoKey(): Promise<string | null> {
  const response = await fetch("/v1/demo", { cache: "no-store" });
  if (!response.ok) return null;
  const { credential } = (await response.json()) as { credential: string };
  return credential;
}

export function keepKey(key: string): void {
  sessionStorage.setItem(STORED, key);
}

export function forgetKey(): void {
  sessionStorage.removeItem(STORED);
}

async function get<T>(path: string, key: string, otherwise: T): Promise<T> {
  const headers = { Authorization: `Bearer ${key}` };
  const response = await fetch(path, { headers, cache: "no-store" });
  if (response.status === 401 || response.status === 403) throw new KeyRefused();
  return response.ok ? ((await response.json()) as T) : otherwise;
}

/** The model that a session will get, if a node has declared one. Rejects with KeyRefused or TypeError. */
export async function findModel(key: string): Promise<Model | null> {
  const pools = await get<{ name: string; model: Model | null }[]>("/v1/pools", key, []);
  const first = pools.find(({ name }) => name === "default") ?? pools[0];
  return first?.model ?? pools.find(({ model }) => model)?.model ?? null;
}
