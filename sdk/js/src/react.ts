/**
 * A session as a React hook. It needs React 18 or newer, which the app has anyway.
 *
 * ```tsx
 * const client = createClient({ url: "wss://bridge.example", token: () => fetchToken() }); // outside of components
 * const { state, stream, session } = useRtcbridge(client, { stream: camera, params: { style: "candy" } });
 * ```
 */

import { useEffect, useRef, useState } from "react";
import type { BridgeError } from "./errors.ts";
import type { Client, ConnectOptions } from "./index.ts";
import type { Session } from "./session.ts";
import type { Stats } from "./stats.ts";
import type { SessionState } from "./types.ts";
import type { Model, ParamValues, Place } from "./wire.ts";

/** What is known of the session now; each change renders the component again. */
export interface Rtcbridge {
  /** To act on: `update`, `mute`, `attach`, `close`. Null while there is none. */
  session: Session | null;
  /** `idle` while there is no client or no stream. */
  state: SessionState | "idle";
  /** The result, for `srcObject` of a video element. It stays the same object as long as the session. */
  stream: MediaStream | null;
  /** Why the session ended; null while it has not. */
  error: BridgeError | null;
  /** The newest error that did not end it; null again when it is live. */
  warning: BridgeError | null;
  place: Place | null;
  model: Model | null;
  /** All parameter values in force; null until the node has told them. */
  values: ParamValues | null;
  /** Once a second; null before. */
  stats: Stats | null;
}

export interface UseOptions {
  /** What is sent. Null for no session; another stream takes its place without a new session. */
  stream: MediaStream | null;
  /** First values for the model's parameters, as they are when the session begins. */
  params?: ParamValues;
}

const NOTHING: Rtcbridge = {
  session: null,
  state: "idle",
  stream: null,
  error: null,
  warning: null,
  place: null,
  model: null,
  values: null,
  stats: null,
};

/** One session for as long as the component is there and has a client and a stream; it ends with the component. */
export function useRtcbridge(client: Client | null, options: UseOptions): Rtcbridge {
  const [seen, show] = useState(NOTHING);
  const latest = useRef(options);
  const { stream } = options;
  const wanted = stream !== null;
  useEffect(() => void (latest.current = options));

  useEffect(() => {
    const { stream, params = {} } = latest.current;
    if (!client || !stream) return;
    const stop = follow(client, { stream, params }, (more) => show((before) => ({ ...before, ...more })));
    return () => {
      stop();
      show(NOTHING);
    };
  }, [client, wanted]);

  const { session } = seen;
  useEffect(() => {
    if (!session || !stream) return;
    session
      .replaceStream(stream)
      .catch((warning: BridgeError) => show((before) => (before.session === session ? { ...before, warning } : before)));
  }, [session, stream]);
  return seen;
}

/** Begin a session and tell what becomes of it, until the function that this returns ends it. */
function follow(client: Client, options: ConnectOptions, tell: (more: Partial<Rtcbridge>) => void): () => void {
  const session = client.connect(options);
  tell({ session, state: session.state, stream: session.stream });
  const stops = [
    session.on("state", (state) => tell({ state, error: session.error, ...(state === "live" && { warning: null }) })),
    session.on("error", (warning) => tell({ warning })),
    session.on("place", (place) => tell({ place })),
    session.on("model", (model) => tell({ model })),
    session.on("values", (values) => tell({ values })),
    session.on("stats", (stats) => tell({ stats })),
  ];
  return () => {
    for (const stop of stops) stop();
    session.close();
  };
}
