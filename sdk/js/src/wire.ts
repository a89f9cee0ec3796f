/** The documented client API: every message that crosses the socket, and the model's messages on `control`. */

export interface IceCandidate {
  candidate: string;
  sdpMid?: string | null;
  sdpMLineIndex?: number | null;
}

export type ToBridge =
  | { type: "CREDENTIAL"; payload: { credential: string } }
  | { type: "session_start" }
  | { type: "offer"; sdp: string }
  | { type: "candidate"; candidate: IceCandidate };

export type NodeStatus = "pending" | "full" | "waiting";

export type FromBridge =
  | { type: "auth_success" }
  | { type: "node_status"; status: NodeStatus }
  | { type: "server_provisioning" }
  | { type: "error"; message: string }
  | { type: "answer"; sdp: string }
  | { type: "candidate"; candidate: IceCandidate | null };

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
