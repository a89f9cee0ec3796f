/**
 * The client API as this client speaks it, and the model's messages on `control`.
 *
 * The messages of the socket are those of the schema (`wire.generated.ts`), in the newer dialect. What the extension
 * adds to a documented message may be missing: a bridge that does not speak it sends none of it.
 */

import type {
  ExtendedError,
  FromClient,
  FromExtendedClient,
  IceServer,
  ToClient,
  ToExtendedClient,
} from "./wire.generated.ts";

/** The extension's name as a WebSocket subprotocol. */
export const SUBPROTOCOL = "rtcbridge.v2";

export type { CandidateInit as IceCandidate, Status as NodeStatus } from "./wire.generated.ts";

type OlderDialect = "ice_candidate";
type Named<M extends { type: string }, T> = Extract<M, { type: T }>;

/** What the schema leaves open, and this client does not: the dialect, and the values of parameters. */
type Closed<M extends { type: string }> = M &
  (M["type"] extends "offer" | "answer" ? { sdp: string } : unknown) &
  (M["type"] extends "update" ? { id: number; params: ParamValues } : unknown) &
  (M["type"] extends "updated" ? { values: ParamValues } : unknown);

/** A message of either kind of bridge: what only the extension has is optional. */
type Heard<T> = T extends ToClient["type"]
  ? Named<ToClient, T> & Partial<Named<ToExtendedClient, T>>
  : Named<ToExtendedClient, T>;

type Said = Exclude<FromClient | FromExtendedClient, { type: OlderDialect }>;

/** Every message that is sent to the bridge. */
export type ToBridge = { [T in Said["type"]]: Closed<Named<Said, T>> }[Said["type"]];

/** Every message that comes from the bridge. */
export type FromBridge = {
  [T in Exclude<ToExtendedClient["type"], OlderDialect>]: Closed<Heard<T>>;
}[Exclude<ToExtendedClient["type"], OlderDialect>];

/** What candidates are to be gathered with. */
export interface IceServers {
  ice_servers: IceServer[];
  ice_transport_policy: RTCIceTransportPolicy;
}

/** A place in line: 1 is the next to be served; `eta` is in seconds, and missing while nothing is known. */
export interface Place {
  position: number;
  eta?: number | undefined;
}

/** The place that a status tells; null when it tells none. */
export function placeOf({ position, eta }: FromBridge & { type: "node_status" }): Place | null {
  return typeof position === "number" ? { position, eta: eta ?? undefined } : null;
}

/** What the extension says of an error; `retry_after` is in seconds. */
export type ErrorDetails = Partial<Pick<ExtendedError, "code" | "retryable" | "retry_after">>;

export type ParamValue = string | number | boolean;
export type ParamValues = Record<string, ParamValue>;

/** One parameter that a model declares. `min`, `max` and `step` belong to numbers, `choices` to `choice`. */
export interface Param {
  name: string;
  kind: "float" | "int" | "bool" | "choice" | "text";
  title: string;
  default: ParamValue;
  min?: number;
  max?: number;
  step?: number;
  choices?: { value: string; title: string; group?: string }[];
  help?: string;
}

/** What a model says of itself. */
export interface Model {
  name: string;
  title: string;
  params: Param[];
}

/** What the node measures, once a second. Frames a second; `model_ms` is the model's time for one frame. */
export interface NodeStats {
  fps_in: number;
  fps_out: number;
  model_ms: number;
  dropped: number;
}

export type FromNode =
  | ({ type: "model"; values: ParamValues } & Model)
  | { type: "updated"; id: number; values: ParamValues }
  | { type: "error"; id?: number; message: string }
  | { type: "pong"; id: number }
  | ({ type: "stats" } & NodeStats);

/** Parse one text frame into an object with a string `type`; null when it is none. */
export function parse<T extends { type: string }>(frame: unknown): T | null {
  if (typeof frame !== "string") return null;
  try {
    const message: unknown = JSON.parse(frame);
    const typed = typeof message === "object" && message !== null && "type" in message;
    return typed && typeof message.type === "string" ? (message as T) : null;
  } catch {
    return null;
  }
}

/** The bridge's socket address: `http` becomes `ws`, and an address without a path gets `/client`. */
export function clientUrl(address: string): string {
  const url = new URL(address);
  url.protocol = url.protocol.replace("http", "ws");
  if (url.pathname === "/") url.pathname = "/client";
  url.hash = "";
  return url.href;
}
