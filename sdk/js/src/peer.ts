import type { IceCandidate } from "./wire.ts";

/** What a Peer reports. Nothing is reported after `close()`. */
export interface PeerHandlers {
  /** A local candidate, or null at the end of them. */
  candidate(candidate: IceCandidate | null): void;
  track(track: MediaStreamTrack, receiver: RTCRtpReceiver): void;
  state(state: RTCPeerConnectionState): void;
}

export interface PeerOptions {
  RTCPeerConnection: typeof RTCPeerConnection;
  stream: MediaStream;
  ice: Ice;
}

/** What candidates are gathered with. */
export type Ice = Required<Pick<RTCConfiguration, "iceServers" | "iceTransportPolicy">>;

const FIXED = { bundlePolicy: "max-bundle" } as const;

/**
 * One RTCPeerConnection: media both ways and the `control` channel.
 *
 * Remote candidates are applied in the order of their arrival, and none before the answer (RFC 8838 and
 * W3C WebRTC 4.4.1.6 ask for a remote description first).
 */
export class Peer {
  readonly connection: RTCPeerConnection;
  readonly control: RTCDataChannel;
  /** Resolves when the offer can be sent. */
  readonly prepared: Promise<void>;
  #offer: RTCSessionDescriptionInit | null = null;
  #ice: Ice;
  #gathering: Promise<void> = Promise.resolve();
  #handlers: PeerHandlers | null;
  #answered!: () => void;
  #remote = new Promise<void>((resolve) => (this.#answered = resolve));

  constructor(options: PeerOptions, handlers: PeerHandlers) {
    this.#handlers = handlers;
    const connection = new options.RTCPeerConnection({ ...FIXED, ...options.ice });
    this.#ice = options.ice;
    this.connection = connection;
    this.control = connection.createDataChannel("control");
    for (const track of options.stream.getTracks()) {
      connection.addTransceiver(track, {
        direction: "sendrecv",
        streams: [options.stream],
      });
    }
    connection.ontrack = ({ track, receiver }) => {
      preferLowDelay(receiver);
      this.#handlers?.track(track, receiver);
    };
    connection.onicecandidate = ({ candidate }) => this.#candidate(candidate);
    connection.onconnectionstatechange = () => this.#handlers?.state(connection.connectionState);
    this.prepared = connection.createOffer().then((offer) => void (this.#offer = offer));
  }

  /** The offer, with every candidate gathered until now. */
  get offer(): string {
    return this.connection.localDescription?.sdp ?? this.#offer?.sdp ?? "";
  }

  /** Use these servers and this policy for what is gathered from now on. Throws if the browser refuses them. */
  configure(ice: Ice): void {
    if (JSON.stringify(ice) === JSON.stringify(this.#ice)) return;
    this.#ice = ice;
    this.connection.setConfiguration({ ...FIXED, ...ice });
  }

  /**
   * Begin to gather candidates. The offer may have been sent before: so it does not wait for the bridge to name its
   * servers, and they are there when the first candidate is.
   */
  gather(): Promise<void> {
    return (this.#gathering = this.prepared.then(() => {
      if (this.#offer && this.connection.signalingState === "stable")
        return this.connection.setLocalDescription(this.#offer);
    }));
  }

  /** Whether local candidates are all in `offer` by now. */
  get gathered(): boolean {
    return this.connection.iceGatheringState === "complete";
  }

  /** Look for another path to the node; resolves when the new offer can be sent. */
  restart(): Promise<void> {
    this.connection.restartIce();
    return this.connection.setLocalDescription();
  }

  /** Apply the answer; a second one for the same offer changes nothing. */
  async answer(sdp: string): Promise<void> {
    await this.#gathering;
    if (this.connection.signalingState !== "have-local-offer") return;
    await this.connection.setRemoteDescription({ type: "answer", sdp });
    this.#answered();
  }

  /** Apply a remote candidate, behind the answer and the candidates before it. Rejects if it is refused. */
  candidate(candidate: IceCandidate | null): Promise<void> {
    const applied = this.#remote.then(() => {
      if (this.connection.signalingState === "closed") return;
      // A null text is the end of candidates on the wire; to the browser it would be the text "null".
      return this.connection.addIceCandidate(isText(candidate) ? candidate : null);
    });
    this.#remote = applied.catch(() => undefined); // one bad candidate does not stop those behind it
    return applied;
  }

  /** Send another track of the same kind, without a new offer. */
  async replaceTrack(kind: string, track: MediaStreamTrack | null): Promise<boolean> {
    const found = this.connection.getTransceivers().find(({ receiver }) => receiver.track.kind === kind);
    await found?.sender.replaceTrack(track);
    return found !== undefined;
  }

  close(): void {
    this.#handlers = null;
    this.connection.close();
  }

  #candidate(candidate: RTCIceCandidate | null): void {
    if (candidate === null) this.#handlers?.candidate(null);
    else if (candidate.candidate) {
      const { sdpMid, sdpMLineIndex } = candidate;
      this.#handlers?.candidate({
        sdpMid,
        sdpMLineIndex,
        candidate: candidate.candidate,
      });
    }
  }
}

function isText(candidate: IceCandidate | null): candidate is IceCandidate & { candidate: string } {
  return typeof candidate?.candidate === "string";
}

/**
 * Ask for the shortest jitter buffer: a late frame is of no use to who steers the picture.
 *
 * `jitterBufferTarget` is W3C WebRTC Extensions (milliseconds); `playoutDelayHint` its older name in Chromium.
 */
function preferLowDelay(receiver: RTCRtpReceiver): void {
  const hinted = receiver as RTCRtpReceiver & { playoutDelayHint?: number };
  if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
  if ("playoutDelayHint" in hinted) hinted.playoutDelayHint = 0;
}
