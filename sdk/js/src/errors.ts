/** Every way in which a session can go wrong, in one closed list. */

import type { ErrorDetails } from "./wire.ts";

export type ErrorCode =
  | "auth_failed"
  | "pool_full"
  | "start_failed"
  | "node_lost"
  | "no_answer"
  | "node_refused"
  | "no_media"
  | "session_too_long"
  | "session_ended"
  | "ice_failed"
  | "network"
  | "shutdown"
  | "overloaded"
  | "policy"
  | "bad_input"
  | "too_many_candidates"
  | "session_limit"
  | "rate_limited"
  | "no_node"
  | "update_unsupported"
  | "model_error"
  | "rejected"
  | "timeout"
  | "closed";

interface Row {
  /** What `BridgeError.message` says when nothing better is known. */
  message: string;
  /** Whether the same request may succeed later without a change by the caller. */
  retryable: boolean;
  /** The literal text of the bridge that means this error. */
  text?: string;
  /** The close code of the socket that means this error, once the credential has been accepted. */
  close?: readonly number[];
}

/** Code → meaning. Texts and close codes are those of the wire protocol; nothing else is looked at. */
export const ERRORS: Readonly<Record<ErrorCode, Row>> = {
  auth_failed: {
    message: "The bridge did not accept the credential.",
    retryable: false,
  },
  pool_full: {
    message: "No node is free and the pool may not grow.",
    retryable: true,
    text: "Maximum pool size reached. Cannot assign a new node.",
  },
  start_failed: {
    message: "The node could not be started.",
    retryable: true,
    text: "Failed to start a stopped node.",
  },
  node_lost: {
    message: "The node was lost.",
    retryable: true,
    text: "The node was lost.",
  },
  no_answer: {
    message: "The node did not answer.",
    retryable: true,
    text: "The node did not answer.",
  },
  node_refused: {
    message: "The node could not go on with the session.",
    retryable: true,
    text: "The node could not go on with the session.",
  },
  no_media: {
    message: "No media arrived in time after the answer.",
    retryable: true,
    text: "No media arrived in time after the answer.",
  },
  session_too_long: {
    message: "The session reached its maximum length.",
    retryable: false,
    text: "The session reached its maximum length.",
  },
  session_ended: {
    message: "The node ended the session.",
    retryable: true,
    text: "The session was ended by the operator.",
  },
  ice_failed: {
    message: "No media connection to the node could be made or kept.",
    retryable: true,
  },
  network: {
    message: "The bridge cannot be reached.",
    retryable: true,
    close: [1006, 1001, 1005, 1000],
  },
  shutdown: {
    message: "The bridge is restarting.",
    retryable: true,
    close: [1012],
  },
  overloaded: {
    message: "The bridge closed the connection because it was too slow.",
    retryable: true,
    close: [1011, 1013],
  },
  policy: {
    message: "The bridge closed the connection: the key was revoked or a limit was passed.",
    retryable: false,
    close: [1008],
  },
  bad_input: {
    message: "The bridge did not understand a message.",
    retryable: false,
    close: [1002, 1003, 1007, 1009],
  },
  too_many_candidates: {
    message: "Too many candidates before the node is ready.",
    retryable: false,
    text: "Too many candidates before the node is ready.",
  },
  session_limit: {
    message: "There are as many sessions as there may be with this key or token.",
    retryable: true,
    text: "The credential has as many sessions as it may have.",
  },
  rate_limited: {
    message: "The key or token was used too often in a short time.",
    retryable: true,
    text: "The credential has been used too often in a short time.",
  },
  no_node: {
    message: "No node serves the session now.",
    retryable: true,
  },
  update_unsupported: {
    message: "Parameters cannot be changed over the socket here.",
    retryable: false,
  },
  model_error: { message: "The model failed.", retryable: true },
  rejected: {
    message: "The model did not take the parameters.",
    retryable: false,
  },
  timeout: { message: "No acknowledgement arrived in time.", retryable: true },
  closed: { message: "The session is over.", retryable: false },
};

/** An error with a stable code for programs, a text for people, and whether trying again may help. */
export class BridgeError extends Error {
  readonly code: ErrorCode;
  readonly retryable: boolean;
  /** Seconds after which trying again may help, where the bridge knows. */
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, message?: string, details: ErrorDetails = {}) {
    super(message || ERRORS[code].message);
    this.name = "BridgeError";
    this.code = code;
    this.retryable = details.retryable ?? ERRORS[code].retryable;
    this.retryAfter = details.retry_after ?? undefined;
  }
}

const CODES = Object.keys(ERRORS) as ErrorCode[];

/** Codes of the extension that have another name here. */
const RENAMED: Readonly<Record<string, ErrorCode>> = { update_refused: "rejected" };

/** The error that an `error` of the bridge means: by its code, or else by its text; an unknown one is bad input. */
export function fromMessage(message: { message: string } & ErrorDetails): BridgeError {
  const told = message.code ?? "";
  const known = CODES.find((code) => code === told || ERRORS[code].text === message.message);
  return new BridgeError(RENAMED[told] ?? known ?? "bad_input", message.message, message);
}

/**
 * The error that the end of the socket means.
 *
 * Before `auth_success` the bridge closes with 1008 and no reason whatever was wrong, so that is
 * `auth_failed`; any other end there means that the bridge was not reached.
 */
export function fromClose(close: number, authenticated: boolean): BridgeError {
  if (!authenticated)
    return new BridgeError(close === 1008 ? "auth_failed" : close === 1012 ? "shutdown" : "network");
  return new BridgeError(CODES.find((code) => ERRORS[code].close?.includes(close)) ?? "network");
}
