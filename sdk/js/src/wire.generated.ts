/**
 * The messages between a client and the bridge.
 *
 * Generated from protocol/schema.json by tools/wire_types.py; do not edit.
 */

/** client to bridge */
export type FromClient = Credential | SessionStart | OfferWire | CandidateWire | IceCandidateWire;

/** bridge to client */
export type ToClient =
  | AuthSuccess
  | NodeStatus
  | ServerProvisioning
  | ClientError
  | ClientAnswer
  | CandidateWire
  | IceCandidateWire;

/** client to bridge, with the subprotocol rtcbridge.v2 */
export type FromExtendedClient =
  | Credential
  | SessionStart
  | OfferWire
  | CandidateWire
  | IceCandidateWire
  | Ack
  | SessionResume
  | ClientEnd
  | Update;

/** bridge to client, with the subprotocol rtcbridge.v2 */
export type ToExtendedClient =
  | ExtendedAuthSuccess
  | IceRefresh
  | ExtendedNodeStatus
  | ServerProvisioning
  | ExtendedError
  | ClientAnswer
  | CandidateWire
  | IceCandidateWire
  | Resumed
  | SessionEnded
  | Updated
  | Reconnect
  | Ack;

/** So many numbered messages of the other side have been taken. It has no number itself. */
export interface Ack {
  type: "ack";
  received: number;
}

/** The credential is valid. */
export interface AuthSuccess {
  type: "auth_success";
}

/** RTCIceCandidateInit, W3C WebRTC 1.0 section 4.8.1; other fields pass unchecked. */
export interface CandidateInit {
  candidate: string | null;
  sdpMid?: string | null;
  sdpMLineIndex?: number | null;
}

/** A candidate, either way. */
export interface CandidateWire {
  type: "candidate";
  candidate: CandidateInit | null;
}

/** The node's WebRTC answer, in one of the two dialects. */
export interface ClientAnswer {
  type: "answer";
  sdp?: string;
  payload?: Description;
}

/** The client wants its session no more; its socket stays. */
export interface ClientEnd {
  type: "session_end";
  reason?: string;
}

/** A refusal, or what was wrong with a message. */
export interface ClientError {
  type: "error";
  message: string;
}

/** First message of a client: its key. */
export interface Credential {
  type: "CREDENTIAL";
  payload: CredentialPayload;
}

/** The inside of `CREDENTIAL`. */
export interface CredentialPayload {
  credential: string;
}

/** RTCSessionDescriptionInit, in the older dialect. */
export interface Description {
  sdp: string;
  type?: string;
}

/** The credential is valid; `resume` takes `session` over on another socket. */
export interface ExtendedAuthSuccess {
  type: "auth_success";
  session: string;
  resume: string;
  ice_servers?: IceServer[];
  ice_transport_policy?: "all" | "relay";
}

/** A refusal. `retry_after` is in seconds; `id` is that of the `update` that is refused. */
export interface ExtendedError {
  type: "error";
  message: string;
  code: string;
  retryable: boolean;
  retry_after?: number | null;
  id?: number | string | null;
}

/**
 * Where the session stands: `position` 1 is next, `eta` is in seconds; in line only, and where it is known.
 */
export interface ExtendedNodeStatus {
  type: "node_status";
  status: Status;
  position?: number | null;
  eta?: number | null;
}

/** The same in the older dialect. */
export interface IceCandidateWire {
  type: "ice_candidate";
  payload: CandidateInit | null;
}

/** These take the place of the ICE servers that the client was told before, whose credentials soon expire. */
export interface IceRefresh {
  type: "ice_servers";
  ice_servers: IceServer[];
}

/** RTCIceServer, W3C WebRTC 1.0 section 4.2.2. */
export interface IceServer {
  urls: string[] | string;
  username?: string;
  credential?: string;
}

/** Where the session stands. */
export interface NodeStatus {
  type: "node_status";
  status: Status;
}

/** An offer in one of the two dialects. */
export interface OfferWire {
  type: "offer";
  sdp?: string;
  payload?: Description;
}

/** The bridge is about to close the socket: resume on another one. */
export interface Reconnect {
  type: "reconnect";
}

/**
 * The session is this socket's; `received` numbered messages of the client are taken. `anew`: both count
 * anew.
 */
export interface Resumed {
  type: "session_resume";
  session: string;
  received: number;
  anew?: boolean;
}

/** The offer is accepted, and waits for its node. */
export interface ServerProvisioning {
  type: "server_provisioning";
}

/** The session is over; its slot or place is given back. */
export interface SessionEnded {
  type: "session_end";
  reason: string;
}

/**
 * Take a session over. `received` is how many numbered messages the client has taken on its sockets before.
 */
export interface SessionResume {
  type: "session_resume";
  resume: string;
  received: number;
}

/** The client is about to start a session: the demand signal. */
export interface SessionStart {
  type: "session_start";
}

/** What `node_status` says. */
export type Status = "full" | "pending" | "waiting";

/** Change parameters of the model. The answer repeats `id`. */
export interface Update {
  type: "update";
  params: Record<string, unknown>;
  id?: number | string | null;
}

/** The model has taken the update; `values` are all that are in force. */
export interface Updated {
  type: "updated";
  values: Record<string, unknown>;
  id?: number | string | null;
}
