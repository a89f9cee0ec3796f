/**
 * Your video through a real-time model and back.
 *
 * ```ts
 * const client = createClient({ url: "wss://bridge.example", token: () => fetchToken() });
 * const session = client.connect({ stream, params: { style: "candy" } });
 * session.on("state", (state) => console.log(state));
 * session.attach(videoElement);
 * await session.update({ strength: 0.5 });
 * session.close();
 * ```
 */

import { Session } from "./session.ts";
import type { SessionOptions, Timeouts } from "./types.ts";
import { clientUrl, type ParamValues } from "./wire.ts";

export { BridgeError, ERRORS, type ErrorCode } from "./errors.ts";
export { estimate, LatencyMeter, type Match, type Sample } from "./latency.ts";
export { Session } from "./session.ts";
export type { FirstFrame, Latency, Stats } from "./stats.ts";
export type { SessionEvents, SessionState, Timeouts, UpdateOptions } from "./types.ts";
export type { Model, NodeStats, Param, ParamValue, ParamValues, Place } from "./wire.ts";

export interface ClientOptions {
  /** Where the bridge is: `wss://host`, `https://host`, or with a path of its own. */
  url: string;
  /**
   * A client token (`ek_…`), or better a function that has your back end make one: it is called for each connection,
   * also when a lost one is replaced, since a token lives for a minute or so.
   */
  token?: Secret;
  /** The same by its name in the protocol; a secret key (`sk_…`), too, where no stranger reads the page. */
  credential?: Secret;
  /** STUN and TURN servers, in place of those that the bridge names. */
  iceServers?: RTCIceServer[];
  /** "relay": only through a TURN server. A bridge that wants that has it so in any case. Default "all". */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Come back by itself when the node is lost, or the socket or the connection breaks. Default true. */
  autoRejoin?: boolean;
  timeouts?: Partial<Timeouts>;
  /** For environments that have none of their own. */
  WebSocket?: typeof WebSocket;
  RTCPeerConnection?: typeof RTCPeerConnection;
}

/** A text, or a function that returns it. If it throws, the connection has failed. */
export type Secret = string | (() => string | Promise<string>);

export interface ConnectOptions {
  /** What is sent to the model. Its tracks stay yours. */
  stream: MediaStream;
  /** First values for the model's parameters. */
  params?: ParamValues;
}

export interface Client {
  /** Start a session. It never throws for what the network does: listen to `state`, read `error`. */
  connect(options: ConnectOptions): Session;
}

const TIMEOUTS: Timeouts = {
  open: 10_000,
  auth: 15_000,
  answer: 30_000,
  media: 30_000,
  farewell: 2_000,
  update: 10_000,
  restart: 2_000,
};

/** A client of one bridge. Throws TypeError if `url` is none, or if there is neither a token nor a credential. */
export function createClient(options: ClientOptions): Client {
  const credential = options.token ?? options.credential;
  if (credential === undefined) throw new TypeError("a token or a credential is needed");
  const fixed: Omit<SessionOptions, "stream" | "params"> = {
    url: clientUrl(options.url),
    credential,
    iceServers: options.iceServers,
    iceTransportPolicy: options.iceTransportPolicy ?? "all",
    autoRejoin: options.autoRejoin ?? true,
    timeouts: { ...TIMEOUTS, ...options.timeouts },
    WebSocket: options.WebSocket ?? globalThis.WebSocket,
    RTCPeerConnection: options.RTCPeerConnection ?? globalThis.RTCPeerConnection,
  };
  return {
    connect: ({ stream, params = {} }) => new Session({ ...fixed, stream, params }),
  };
}
