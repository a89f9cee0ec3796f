/** What a session tells and takes. */

import type { BridgeError } from "./errors.ts";
import type { Stats } from "./stats.ts";
import type { Model, ParamValues, Place } from "./wire.ts";

/**
 * Where a session is.
 *
 * `full` is a place in the line; `waiting` is a node that waits for us. `reconnecting`: media was up, or the
 * credential accepted, and the session is being brought back.
 */
export type SessionState =
  | "connecting"
  | "authenticating"
  | "pending"
  | "full"
  | "waiting"
  | "negotiating"
  | "live"
  | "reconnecting"
  | "ended";

/** Milliseconds. */
export interface Timeouts {
  /** For the socket to open. */
  open: number;
  /** For the credential to be accepted. */
  auth: number;
  /** For the answer, once a node waits. The bridge gives two nodes 10 s each. */
  answer: number;
  /** For media, once the answer is there. */
  media: number;
  /** For the bridge to say why, once the node has closed the connection. */
  farewell: number;
  /** For the acknowledgement of `update`. */
  update: number;
  /** For the answer to an offer that looks for another path; then the socket is taken to lead nowhere, too. */
  restart: number;
}

export interface SessionOptions {
  url: string;
  credential: string | (() => string | Promise<string>);
  /** What is sent. Its tracks belong to the caller: the session never stops them. */
  stream: MediaStream;
  /** Values for the model's parameters, sent as soon as the `control` channel opens. */
  params: ParamValues;
  /** The app's own servers; without them those that the bridge names. */
  iceServers?: RTCIceServer[] | undefined;
  iceTransportPolicy: RTCIceTransportPolicy;
  /** Come back by itself when the node is lost, or the socket or the connection breaks. */
  autoRejoin: boolean;
  timeouts: Timeouts;
  WebSocket: typeof WebSocket;
  RTCPeerConnection: typeof RTCPeerConnection;
}

export interface UpdateOptions {
  /** The way that a change of parameters takes: the data channel, or the socket to a bridge that speaks the extension. */
  via?: "control" | "socket";
}

export interface SessionEvents {
  state: SessionState;
  /** A track of the result was added to `stream`. */
  track: MediaStreamTrack;
  /** The model's declaration, from the node. */
  model: Model;
  /** All parameter values now in force. */
  values: ParamValues;
  stats: Stats;
  /** An error that did not end the session. The one that did is `session.error`. */
  error: BridgeError;
  /**
   * Whether the socket to the bridge is there. Media goes on without it. A bridge that speaks the extension is
   * dialled again, and the session goes on where it was: then `open` follows.
   */
  signaling: "open" | "lost";
  /** The place in line has changed; null once it is left. Only from bridges that speak the extension. */
  place: Place | null;
}
