/** A bridge, a socket and a peer connection without a network. Tests say what the bridge answers. */

import { createClient, type ClientOptions, type Session, type SessionState } from "../src/index.ts";
import { SUBPROTOCOL, type FromBridge, type ToBridge } from "../src/wire.ts";

type Handler = ((event: never) => void) | null;

/** Let every promise that can settle do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

export class FakeSocket {
  static made: FakeSocket[] = [];
  readyState = 0;
  onopen: Handler = null;
  onmessage: Handler = null;
  onclose: Handler = null;
  closedWith: number | null = null;
  readonly sent: ToBridge[] = [];

  protocol = "";

  constructor(
    readonly url: string,
    readonly protocols: string[] = [],
  ) {
    FakeSocket.made.push(this);
  }

  send(frame: string): void {
    this.sent.push(JSON.parse(frame) as ToBridge);
  }

  close(code: number): void {
    this.closedWith ??= code;
    this.readyState = 3;
  }

  // ---- the bridge's side

  open(protocol = ""): void {
    this.protocol = protocol;
    this.readyState = 1;
    this.onopen?.({} as never);
  }

  tell(...messages: FromBridge[]): void {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) } as never);
  }

  drop(code: number): void {
    this.readyState = 3;
    this.onclose?.({ code } as never);
  }

  get types(): string[] {
    return this.sent.map(({ type }) => type);
  }
}

export class FakeChannel {
  readyState = "connecting";
  onopen: Handler = null;
  onmessage: Handler = null;
  onclose: Handler = null;
  readonly sent: {
    type: string;
    id: number;
    params: Record<string, unknown>;
  }[] = [];

  constructor(readonly label: string) {}

  send(frame: string): void {
    this.sent.push(JSON.parse(frame) as (typeof this.sent)[0]);
  }

  open(): void {
    this.readyState = "open";
    this.onopen?.({} as never);
  }

  tell(message: object | string): void {
    this.onmessage?.({
      data: typeof message === "string" ? message : JSON.stringify(message),
    } as never);
  }

  drop(): void {
    this.readyState = "closed";
    this.onclose?.({} as never);
  }
}

export class FakePeer {
  static made: FakePeer[] = [];
  connectionState = "new";
  signalingState = "stable";
  iceGatheringState = "gathering";
  localDescription: { sdp: string } | null = null;
  ontrack: Handler = null;
  onicecandidate: Handler = null;
  onconnectionstatechange: Handler = null;
  readonly applied: unknown[] = [];
  readonly replaced: unknown[] = [];
  readonly kinds: string[] = [];
  channel!: FakeChannel;
  closed = false;
  restarts = 0;
  /** The configuration with which it last began to gather. */
  gatheredWith: RTCConfiguration | null = null;

  configuration: RTCConfiguration;

  constructor(readonly made: RTCConfiguration) {
    this.configuration = made;
    FakePeer.made.push(this);
  }

  setConfiguration(configuration: RTCConfiguration): void {
    if (configuration.iceServers?.some(({ urls }) => urls === "bad")) throw new Error("bad server");
    this.configuration = configuration;
  }

  async createOffer(): Promise<{ type: string; sdp: string }> {
    await Promise.resolve();
    return { type: "offer", sdp: `offer ${FakePeer.made.indexOf(this)}` };
  }

  createDataChannel(label: string): FakeChannel {
    return (this.channel = new FakeChannel(label));
  }

  addTransceiver(track: { kind: string }): void {
    this.kinds.push(track.kind);
  }

  getTransceivers(): object[] {
    return this.kinds.map((kind) => ({
      receiver: { track: { kind } },
      sender: {
        replaceTrack: async (track: unknown) => void this.replaced.push([kind, track]),
      },
    }));
  }

  restartIce(): void {
    this.restarts += 1;
  }

  async setLocalDescription(): Promise<void> {
    await Promise.resolve();
    this.signalingState = "have-local-offer";
    const again = this.restarts ? ` again` : "";
    this.localDescription = { sdp: `offer ${FakePeer.made.indexOf(this)}${again}` };
    this.gatheredWith = this.configuration;
  }

  async setRemoteDescription({ sdp }: { sdp: string }): Promise<void> {
    if (sdp === "bad") throw new Error("bad SDP");
    await Promise.resolve();
    this.signalingState = "stable";
    this.applied.push(sdp);
  }

  async addIceCandidate(candidate: { candidate: string } | null): Promise<void> {
    if (candidate?.candidate === "bad") throw new Error("bad candidate");
    this.applied.push(candidate?.candidate ?? null);
  }

  async getStats(): Promise<Map<string, object>> {
    return new Map();
  }

  close(): void {
    this.closed = true;
    this.signalingState = this.connectionState = "closed";
  }

  // ---- the node's and the network's side

  gather(candidate: string | null): void {
    if (candidate === null) this.iceGatheringState = "complete";
    else if (this.localDescription) this.localDescription.sdp += ` + ${candidate}`;
    const event = {
      candidate: candidate && {
        candidate,
        sdpMid: "0",
        sdpMLineIndex: 0,
        usernameFragment: "u",
      },
    };
    this.onicecandidate?.(event as never);
  }

  become(state: string): void {
    this.connectionState = state;
    this.onconnectionstatechange?.({} as never);
  }
}

export class FakeStream {
  readonly tracks: { kind: string; enabled?: boolean }[];

  constructor(tracks: { kind: string }[] = []) {
    this.tracks = [...tracks];
  }

  getTracks(): { kind: string }[] {
    return this.tracks;
  }

  addTrack(track: { kind: string }): void {
    this.tracks.push(track);
  }

  removeTrack(track: { kind: string }): void {
    this.tracks.splice(this.tracks.indexOf(track), 1);
  }
}

/** What a bridge that speaks the extension says to a valid credential. */
export const WELCOME = { type: "auth_success", session: "s", resume: "token" } as const;
export const KEY = "sk_TEST01_my0Secret1Token2Value3";

export interface Stage {
  session: Session;
  states: SessionState[];
  /** Codes of the errors that did not end the session. */
  errors: string[];
  readonly socket: FakeSocket;
  readonly peer: FakePeer;
}

/** A session that has just been asked for. `socket` and `peer` are always the newest. */
export async function begin(options: Partial<ClientOptions> = {}, params = {}): Promise<Stage> {
  FakeSocket.made = [];
  FakePeer.made = [];
  (globalThis as { MediaStream?: unknown }).MediaStream = FakeStream;
  const client = createClient({
    url: "https://bridge.example",
    credential: KEY,
    WebSocket: FakeSocket as unknown as typeof WebSocket,
    RTCPeerConnection: FakePeer as unknown as typeof RTCPeerConnection,
    ...options,
  });
  const stream = new FakeStream([{ kind: "video" }]) as unknown as MediaStream;
  const session = client.connect({ stream, params });
  const stage: Stage = {
    session,
    states: [],
    errors: [],
    get socket() {
      return FakeSocket.made.at(-1)!;
    },
    get peer() {
      return FakePeer.made.at(-1)!;
    },
  };
  session.on("state", (state) => stage.states.push(state));
  session.on("error", ({ code }) => stage.errors.push(code));
  await settle();
  return stage;
}

/** A session whose media is up, with an open `control` channel. */
export async function live(options: Partial<ClientOptions> = {}, params = {}, extended = false): Promise<Stage> {
  const stage = await begin(options, params);
  stage.socket.open(extended ? SUBPROTOCOL : "");
  await settle();
  stage.socket.tell(extended ? WELCOME : { type: "auth_success" }, { type: "node_status", status: "waiting" });
  await answered(stage);
  return stage;
}

/** The node answers, and media comes up. */
export async function answered(stage: Stage): Promise<void> {
  stage.socket.tell({ type: "answer", sdp: "answer" });
  await settle();
  stage.peer.channel.open();
  stage.peer.become("connected");
  await settle();
}
