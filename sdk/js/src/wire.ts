/**
 * The client API: every message that crosses the socket, and the model's messages on `control`.
 *
 * What the extension adds is optional, or marked as its own: a bridge that does not speak it sends and takes none of it.
 */

/** The extension's name as a WebSocket subprotocol. */
export const SUBPROTOCOL = "rtcbridge.v2";

export interface IceCandidate {
  candidate: string;
  sdpMid?: string | null;
  sdpMLineIndex?: number | null;
}

export type ToBridge =
  | { type: "CREDENTIAL"; payload: { credential: string } }
  | { type: "session_start" }
  | { type: "offer"; sdp: string }
  | { type: "candidate"; candidate: IceCandidate }
  // of the extension
  | { type: "update"; id: number; params: ParamValues }
  | { type: "session_resume"; resume: string; received: number }
  | { type: "ack"; received: number };

export type NodeStatus = "pending" | "full" | "waiting";

export type FromBridge =
  | ({ type: "auth_success"; session?: string; resume?: string } & Partial<IceServers>)
  | ({ type: "node_status"; status: NodeStatus } & Partial<Place>)
  | { type: "server_provisioning" }
  | ({ type: "error"; message: string; id?: number } & ErrorDetails)
  | { type: "answer"; sdp: string }
  | { type: "candidate"; candidate: IceCandidate | null }
  // of the extension
  | { type: "ice_servers"; ice_servers: RTCIceServer[] }
  | { type: "updated"; id?: number; values: ParamValues }
  | { type: "session_resume"; session: string; received: number; anew?: boolean }
  | { type: "session_end"; reason: string }
  | { type: "ack"; received: number }
  | { type: "reconnect" };

/** What candidates are to be gathered with. */
export interface IceServers {
  ice_servers: RTCIceServer[];
  ice_transport_policy: RTCIceTransportPolicy;
}

/** A place in line: 1 is the next to be served; `eta` is in seconds, and missing while nothing is known. */
export interface Place {
  position: number;
  eta?: number | undefined;
}

/** What the extension says of an error; `retry_after` is in seconds. */
export interface ErrorDetails {
  code?: string;
  retryable?: boolean;
  retry_after?: number;
}

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
