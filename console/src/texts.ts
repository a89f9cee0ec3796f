import type { ErrorCode, Place, SessionState } from "rtcbridge";

/** What the page shows of a state: a word or two for the pill, a sentence for the empty result. */
export const STATES: Readonly<Record<SessionState | "idle", { label: string; sentence: string }>> = {
  idle: { label: "Ready", sentence: "Press Start to see the result here." },
  connecting: { label: "Connecting", sentence: "Connecting to the bridge…" },
  authenticating: { label: "Checking the key", sentence: "The bridge is checking the key…" },
  pending: {
    label: "Node is starting",
    sentence: "A node is being started for you. This can take a moment.",
  },
  full: {
    label: "In line",
    sentence: "You are in line. All nodes are busy, or none is running; you are served in turn.",
  },
  waiting: { label: "Node is ready", sentence: "A node is ready for you…" },
  negotiating: { label: "Setting up", sentence: "Setting up the video with the node…" },
  live: { label: "Live", sentence: "Waiting for the first frame…" },
  reconnecting: { label: "Reconnecting", sentence: "The connection was interrupted. Bringing it back…" },
  ended: { label: "Stopped", sentence: "Press Start to see the result here." },
};

/** Said in addition when a state lasts long. */
export const SLOW: Partial<Record<SessionState, string>> = {
  pending: "This takes longer than usual. The log of the bridge says what the node is doing.",
  full: "Still in line. If nobody else uses this bridge, no node may be running: start one with “rtcbridge node”.",
};

/** What is wrong, and what to do about it. */
export interface Trouble {
  title: string;
  help: string;
  action?: "retry" | "clip" | "key";
}

const RETRY = { action: "retry" } as const;

export const ERROR_TEXTS: Readonly<Record<ErrorCode, Trouble>> = {
  auth_failed: {
    title: "The key was not accepted.",
    help: "Check that it is whole and has not been revoked, then enter it again.",
    action: "key",
  },
  pool_full: {
    title: "No node could be had.",
    help: "The pool may not grow any further. Try again in a while, or raise max_nodes in the configuration.",
    ...RETRY,
  },
  start_failed: {
    title: "The node could not be started.",
    help: "A stopped node did not come up. Try again; the log of the bridge says what happened.",
    ...RETRY,
  },
  node_lost: {
    title: "The node was lost.",
    help: "You are back at the front of the line; the video goes on by itself.",
  },
  no_answer: {
    title: "The node did not answer.",
    help: "It may be overloaded or still loading its model. Try again.",
    ...RETRY,
  },
  node_refused: {
    title: "The node could not take the session.",
    help: "Its log says why; often the model failed to load. Try again.",
    ...RETRY,
  },
  no_media: {
    title: "No video got through to the node.",
    help: "A firewall between you and the node is the usual reason. A TURN server in the configuration helps.",
    ...RETRY,
  },
  session_too_long: {
    title: "The session reached its longest duration.",
    help: "Press Start for a new one.",
    ...RETRY,
  },
  session_ended: { title: "The session was ended.", help: "Press Start for a new one.", ...RETRY },
  ice_failed: {
    title: "No direct connection to the node.",
    help: "A firewall or VPN between you and the node is the usual reason. A TURN server in the configuration helps.",
    ...RETRY,
  },
  network: {
    title: "The bridge cannot be reached.",
    help: "Check that it is running and that this device is online, then try again.",
    ...RETRY,
  },
  shutdown: { title: "The bridge is restarting.", help: "It should be back in a moment.", ...RETRY },
  overloaded: {
    title: "The bridge closed the connection.",
    help: "It could not keep up with this connection. Try again in a while.",
    ...RETRY,
  },
  policy: {
    title: "The bridge closed the connection.",
    help: "The key was revoked, or a limit of the bridge was passed. Try another key.",
    action: "key",
  },
  bad_input: {
    title: "The bridge did not understand this page.",
    help: "Page and bridge may be of different versions. Reload the page.",
  },
  too_many_candidates: {
    title: "Too many network addresses.",
    help: "Some of this device's addresses were left out. If no video arrives, try again.",
  },
  session_limit: {
    title: "No further session may begin.",
    help: "There are as many as there may be with this key. End another one, or try again in a while.",
    ...RETRY,
  },
  rate_limited: {
    title: "That was too often.",
    help: "The key may be used only so often in a minute. Try again in a while.",
    ...RETRY,
  },
  model_error: {
    title: "The model reports an error.",
    help: "The picture may stand still until it recovers.",
  },
  rejected: { title: "The model did not take the value.", help: "Choose another one." },
  no_node: { title: "No node serves the session now.", help: "Try the change again when the video is there." },
  update_unsupported: {
    title: "The node does not take this change over the bridge.",
    help: "It takes it over the connection of the video.",
  },
  timeout: { title: "The node did not confirm the change.", help: "It may be busy. Try the change again." },
  closed: { title: "The session is over.", help: "Press Start for a new one.", ...RETRY },
};

/** Said while the video goes on without a socket to the bridge. */
export const AWAY: Trouble = { title: "The bridge is away.", help: "The video goes on without it." };

/** The sentence of a place in line. */
export function inLine({ position, eta }: Place): string {
  const place = `You are in line${position === 1 ? ", and next" : `, number ${position}`}.`;
  return eta === undefined ? place : `${place} About ${eta < 90 ? `${eta} s` : `${Math.ceil(eta / 60)} min`}.`;
}

export type SourceProblem = "insecure" | "denied" | "missing" | "busy" | "camera" | "file" | "clip";

export const SOURCE_TEXTS: Readonly<Record<SourceProblem, Trouble>> = {
  insecure: {
    title: "The camera is not available on this address.",
    help: "Browsers give the camera only to https pages and to localhost. Open the page there, or use the clip.",
    action: "clip",
  },
  denied: {
    title: "The camera was not allowed.",
    help: "Allow it in the browser's site settings (the icon beside the address) and choose Camera again, or use the clip.",
    action: "clip",
  },
  missing: {
    title: "No camera was found.",
    help: "Connect one and choose Camera again, or use the clip.",
    action: "clip",
  },
  busy: {
    title: "The camera is in use.",
    help: "Another program or tab holds it. Close that and choose Camera again, or use the clip.",
    action: "clip",
  },
  camera: {
    title: "The camera did not start.",
    help: "Choose Camera again, or use the clip.",
    action: "clip",
  },
  file: {
    title: "This file cannot be played.",
    help: "The browser does not know its format. MP4 (H.264) and WebM work in most.",
    action: "clip",
  },
  clip: {
    title: "The clip cannot be played.",
    help: "This browser does not play VP9 video. Use the camera or a file.",
  },
};
