import { Bridge } from "./bridge.ts";
import { Control } from "./control.ts";
import { Emitter } from "./emitter.ts";
import { BridgeError, fromClose, fromMessage } from "./errors.ts";
import { Monitor } from "./monitor.ts";
import { watchNetwork } from "./network.ts";
import { Peer, type Ice } from "./peer.ts";
import type { Stats } from "./stats.ts";
import type { SessionEvents, SessionOptions, SessionState, UpdateOptions } from "./types.ts";
import { Updates } from "./updates.ts";
import {
  placeOf,
  type FromBridge,
  type IceCandidate,
  type IceServers,
  type Model,
  type NodeStatus,
  type ParamValues,
  type Place,
} from "./wire.ts";

const REJOIN_DELAYS = [300, 1000, 2000, 4000, 8000]; // ms, between the attempts to come back
const STEADY = 10_000; // ms live, after which the attempts count from zero again

/** One claim on a node: your stream goes there, `stream` comes back. Made by `Client.connect`. */
export class Session extends Emitter<SessionEvents> {
  /** The result. It stays the same object when the session is brought back; its tracks change. */
  readonly stream: MediaStream;
  /** Resolves when media is up for the first time; rejects with the error if the session ends before that. */
  readonly ready: Promise<void>;

  #state: SessionState = "connecting";
  #error: BridgeError | null = null;
  #model: Model | null = null;
  readonly #options: SessionOptions;
  readonly #monitor = new Monitor((stats) => this.emit("stats", stats));
  readonly #control: Control;
  #outgoing: MediaStream;
  readonly #updates: Updates;
  #bridge: Bridge | null = null;
  #peer: Peer | null = null;
  /** The credential and the demand have been sent on `#bridge`. */
  #greeted = false;
  #place: Place | null = null;
  /** The socket dropped, and is being replaced. */
  #away = false;
  /** Another path to the node is being looked for: so many offers for it have no answer yet. */
  #restarts = 0;
  #restartTimer: ReturnType<typeof setTimeout> | undefined;
  /** The network has changed, and no other path was looked for since. */
  #moved = false;
  /** What the bridge has named. */
  #ice: Ice = { iceServers: [], iceTransportPolicy: "all" };
  readonly #unwatch: () => void;
  #authenticated = false;
  #status: NodeStatus | null = null;
  /** What became of the offer of `#peer`: a refused one is sent again when a node waits. */
  #offer: "none" | "sent" | "refused" = "none";
  #answered = false;
  /** The node has closed the connection; the bridge may still say why. */
  #leaving = false;
  #attempts = 0;
  #liveSince = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #settle!: { resolve(): void; reject(error: BridgeError): void };

  constructor(options: SessionOptions) {
    super();
    this.#options = options;
    this.#outgoing = options.stream;
    this.stream = new MediaStream();
    this.ready = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.ready.catch(() => undefined); // who does not wait for it reads `error`
    this.#control = new Control(
      options.params,
      {
        model: (model) => this.emit("model", (this.#model = model)),
        values: (values) => this.emit("values", values),
        stats: (stats) => (this.#monitor.node = stats),
        failed: (message) => this.emit("error", new BridgeError("model_error", message)),
        closed: () => this.#onNodeClosed(),
      },
      options.timeouts.update,
    );
    this.#updates = new Updates(options.timeouts.update);
    this.#unwatch = watchNetwork(() => this.#onNetwork());
    // Handlers that the caller adds in the same turn see every event.
    queueMicrotask(() => this.#state === "connecting" && this.#begin());
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Why the session ended; null while it has not, and after `close()`. */
  get error(): BridgeError | null {
    return this.#error;
  }

  /** The model's declaration; null until the node has sent it. */
  get model(): Model | null {
    return this.#model;
  }

  /** The newest figures; the event `stats` brings them once a second. */
  get stats(): Stats {
    return this.#monitor.stats;
  }

  /** The place in line, as far as the bridge tells it. */
  get place(): Place | null {
    return this.#place;
  }

  /**
   * Change parameters of the model. Resolves with all values then in force, as the node acknowledged them.
   *
   * Sent at once, or when the `control` channel opens. With `via: "socket"` it goes over the bridge: at once, or when
   * the session has been taken up on another socket. Rejects with a BridgeError: `rejected` (the node
   * says why, and nothing changed), `timeout`, `closed`, and over the socket also `no_node` and `update_unsupported`.
   */
  async update(params: ParamValues, { via = "control" }: UpdateOptions = {}): Promise<ParamValues> {
    if (this.#state === "ended") throw new BridgeError("closed");
    if (via === "control") return this.#control.update(params);
    const bridge = this.#bridge;
    if (!bridge?.extended) throw new BridgeError("update_unsupported");
    const values = await this.#updates.update(params, (message) => bridge.send(message));
    this.#control.remember(params);
    this.emit("values", values);
    return values;
  }

  /** Send another stream: camera to file, say. No new offer is made, so each kind must have been there at the start. */
  async replaceStream(stream: MediaStream): Promise<void> {
    const before = this.#outgoing.getTracks();
    this.#outgoing = stream;
    const kinds = new Set(stream.getTracks().map(({ kind }) => kind));
    for (const { kind } of before) if (!kinds.has(kind)) await this.#peer?.replaceTrack(kind, null);
    for (const track of stream.getTracks()) await this.replaceTrack(track);
  }

  /** Send `track` in place of the one of its kind. Rejects with `bad_input` if none of that kind was offered. */
  async replaceTrack(track: MediaStreamTrack): Promise<void> {
    if (!this.#outgoing.getTracks().includes(track)) {
      const others = this.#outgoing.getTracks().filter(({ kind }) => kind !== track.kind);
      this.#outgoing = new MediaStream([...others, track]);
    }
    const found = await this.#peer?.replaceTrack(track.kind, track);
    if (found === false) throw new BridgeError("bad_input", `The session was started without ${track.kind}.`);
  }

  /** Send black (or silence) instead of the source, or stop doing so. */
  mute(kind: "audio" | "video", muted = true): void {
    for (const track of this.#outgoing.getTracks()) if (track.kind === kind) track.enabled = !muted;
  }

  /** Show the result in `result`, and measure what is seen there; with `source`, the latency between the two. */
  attach(result: HTMLVideoElement, source: HTMLVideoElement | null = null): void {
    if (result.srcObject !== this.stream) result.srcObject = this.stream;
    result.play().catch(() => undefined); // refused without a gesture: the caller shows a way to play
    this.#monitor.attach(result, source);
  }

  /** End the session. Nothing is emitted after the state `ended`. */
  close(): void {
    this.#end(null);
  }

  // ---- the way to a node

  /** What the browser refuses outright, such as a `ws:` address in an `https:` page, ends the session. */
  #begin(): void {
    try {
      this.#connect();
    } catch (error) {
      this.#end(new BridgeError("network", String(error)));
    }
  }

  #connect(): void {
    this.#authenticated = false;
    const own =
      <A extends unknown[]>(handler: (...args: A) => void) =>
      (...args: A): void =>
        void (this.#bridge === bridge && handler(...args));
    const handlers = {
      open: own(() => void this.#greet(bridge)),
      message: own((message: FromBridge) => this.#receive(message)),
      lost: own(() => this.#onLost()),
      back: own(() => this.#onBack()),
      close: own((code: number) => this.#onSocketClosed(code)),
    };
    const { url, credential, WebSocket, timeouts, autoRejoin: resume } = this.#options;
    const options = { url, credential, WebSocket, openTimeout: timeouts.open, resume };
    const bridge: Bridge = new Bridge(options, handlers);
    this.#bridge = bridge;
    this.#join();
  }

  /** The credential, the demand and the offer go in one flight; the bridge takes them in order. */
  async #greet(bridge: Bridge): Promise<void> {
    this.#advance("authenticating");
    this.#deadline(this.#options.timeouts.auth, () => this.#fail(new BridgeError("network")));
    try {
      await bridge.greet();
    } catch (error) {
      if (this.#bridge === bridge) this.#end(new BridgeError("auth_failed", String(error)));
      return;
    }
    if (this.#bridge !== bridge) return;
    bridge.send({ type: "session_start" });
    this.#greeted = true;
    this.#sendOffer();
  }

  /** A new peer connection, whose offer is sent as soon as both it and the socket are ready. */
  #join(): void {
    this.#offer = "none";
    this.#answered = false;
    const own =
      <A extends unknown[]>(handler: (...args: A) => void) =>
      (...args: A): void =>
        void (this.#peer === peer && handler(...args));
    const peer: Peer = new Peer(
      { RTCPeerConnection: this.#options.RTCPeerConnection, stream: this.#outgoing, ice: this.#chosenIce },
      {
        candidate: own((candidate) => this.#offer === "sent" && this.#sendCandidate(candidate)),
        track: own((track: MediaStreamTrack) => this.#onTrack(track)),
        state: own((state: RTCPeerConnectionState) => this.#onPeerState(state)),
      },
    );
    this.#peer = peer;
    this.#control.attach(peer.control);
    const failed = own((error: unknown) => this.#end(new BridgeError("ice_failed", String(error))));
    peer.prepared.then(
      own(() => this.#sendOffer()),
      failed,
    );
    if (this.#authenticated) peer.gather().catch(failed);
  }

  /** Candidates are gathered once the bridge has named its servers. */
  #gather(message: Partial<IceServers>): void {
    this.#ice = { iceServers: message.ice_servers ?? [], iceTransportPolicy: message.ice_transport_policy ?? "all" };
    this.#configure();
    const peer = this.#peer;
    peer?.gather().catch((error: unknown) => {
      if (this.#peer === peer) this.#end(new BridgeError("ice_failed", String(error)));
    });
  }

  /** The app's own servers, or else those of the bridge; relayed only, if either of them wants it so. */
  get #chosenIce(): Ice {
    const { iceServers = this.#ice.iceServers, iceTransportPolicy } = this.#options;
    const relay = [iceTransportPolicy, this.#ice.iceTransportPolicy].includes("relay");
    return { iceServers, iceTransportPolicy: relay ? "relay" : "all" };
  }

  #configure(): void {
    try {
      this.#peer?.configure(this.#chosenIce);
    } catch (error) {
      this.emit("error", new BridgeError("bad_input", `The ICE servers were refused: ${String(error)}`));
    }
  }

  #sendOffer(): void {
    const peer = this.#peer;
    if (!this.#greeted || !peer?.offer || this.#offer === "sent") return;
    if (this.#offer === "refused" && this.#status !== "waiting") return;
    this.#offer = "sent";
    // Candidates gathered by now are part of the description; later ones follow it.
    this.#bridge?.send({ type: "offer", sdp: peer.offer });
    if (peer.gathered) this.#sendCandidate(null);
    if (this.#status === "waiting") this.#negotiate();
  }

  #sendCandidate(candidate: IceCandidate | null): void {
    this.#bridge?.send({
      type: "candidate",
      candidate: candidate ?? { sdpMid: "0", sdpMLineIndex: 0, candidate: "" },
    });
  }

  #negotiate(): void {
    this.#advance("negotiating");
    this.#deadline(this.#options.timeouts.answer, () => this.#fail(new BridgeError("no_answer")));
  }

  // ---- what the bridge says

  #receive(message: FromBridge): void {
    switch (message.type) {
      case "auth_success":
        this.#authenticated = true;
        this.#gather(message);
        this.#monitor.marks.mark("auth");
        this.#deadline(0);
        return this.emit("signaling", "open");
      case "node_status":
        this.#stand(placeOf(message));
        return this.#onStatus(message.status);
      case "server_provisioning":
        return this.#onStatus("pending");
      case "answer":
        return void this.#onAnswer(message.sdp);
      case "candidate":
        return void this.#peer?.candidate(message.candidate).catch((error: unknown) => {
          this.emit(
            "error",
            new BridgeError("bad_input", `A candidate of the node was refused: ${String(error)}`),
          );
        });
      case "error":
        if (!this.#updates.fail(message.id, fromMessage(message))) this.#onError(fromMessage(message));
        return;
      case "ice_servers":
        this.#ice.iceServers = message.ice_servers;
        return this.#configure();
      case "updated":
        return this.#updates.receive(message);
      case "session_end":
        return this.#onSessionEnd(message.reason);
    }
  }

  #stand(place: Place | null): void {
    if (place === null && this.#place === null) return;
    this.#place = place;
    this.emit("place", place);
  }

  /** The bridge has ended the session. A connection that is up says by itself how it ends. */
  #onSessionEnd(reason: string): void {
    const error = new BridgeError("session_ended", `The session has ended: ${reason}.`);
    this.#updates.close(error);
    if (this.#leaving) this.#end(error);
    else if (this.#state !== "live" && !this.#interrupted) this.#fail(error);
  }

  #onStatus(status: NodeStatus): void {
    this.#status = status;
    if (this.#answered) return; // media is up or on its way: the line is behind us
    this.#deadline(0);
    if (!this.#peer) {
      // Our node was lost, and we are in the line again. A new offer is of use only when a node waits.
      if (status === "waiting") this.#join();
      return this.#advance(status);
    }
    this.#advance(status);
    if (status !== "waiting") return;
    this.#monitor.marks.mark("line");
    if (this.#offer === "sent") this.#negotiate();
    else this.#sendOffer();
  }

  async #onAnswer(sdp: string): Promise<void> {
    const peer = this.#peer;
    if (peer && this.#restarts) {
      clearTimeout(this.#restartTimer);
      if (--this.#restarts) return; // it answers an offer that another one has replaced
      return void peer.answer(sdp).catch(() => undefined); // if it does not help, the connection fails
    }
    if (!peer || this.#answered) return;
    this.#answered = true;
    this.#monitor.marks.mark("answer");
    this.#advance("negotiating");
    this.#deadline(this.#options.timeouts.media, () => this.#fail(new BridgeError("ice_failed")));
    try {
      await peer.answer(sdp);
    } catch (error) {
      if (peer === this.#peer)
        this.#fail(new BridgeError("ice_failed", `The answer was refused: ${String(error)}`));
    }
  }

  #onError(error: BridgeError): void {
    switch (error.code) {
      case "pool_full":
        // In the line, the offer alone was refused: our place is kept.
        if (this.#status === "full") this.#offer = "refused";
        else this.#end(error);
        return;
      case "node_lost":
        if (!this.#options.autoRejoin) return this.#end(error);
        this.emit("error", error);
        this.#updates.close(error);
        this.#leave(); // the bridge puts us at the front of the line and says so next
        return this.#set("reconnecting");
      case "start_failed":
      case "no_answer":
      case "node_refused":
      case "no_media":
      case "session_too_long":
      case "session_ended":
      case "session_limit":
        return this.#end(error);
      case "rate_limited": // of a session that is there, it was one message
        return this.#status ? this.emit("error", error) : this.#end(error);
      default:
        return this.emit("error", error);
    }
  }

  #onLost(): void {
    this.#away = true;
    this.#updates.pause();
    this.emit("signaling", "lost");
  }

  #onBack(): void {
    this.#away = false;
    this.#updates.goOn();
    this.emit("signaling", "open");
    if (this.#moved || this.#restarts || this.#interrupted) void this.#restart();
  }

  /** The machine is on another network: the socket may lead nowhere by now, and the path to the node as well. */
  #onNetwork(): void {
    this.#moved = this.#answered;
    if (!this.#away) this.#bridge?.renew();
  }

  #onSocketClosed(code: number): void {
    const error = fromClose(code, this.#authenticated);
    const told = this.#away;
    this.#bridge = null;
    this.#greeted = this.#away = false;
    this.#updates.close(error);
    // Media never depends on the socket: up or interrupted, it goes on until the peer connection fails.
    if (this.#state === "live" || this.#interrupted)
      return told ? this.emit("error", error) : this.emit("signaling", "lost");
    this.#fail(error, this.#authenticated || this.#state === "reconnecting");
  }

  // ---- what the peer connection says

  #onTrack(track: MediaStreamTrack): void {
    for (const old of this.stream.getTracks()) if (old.kind === track.kind) this.stream.removeTrack(old);
    this.stream.addTrack(track);
    this.emit("track", track);
  }

  #onPeerState(state: RTCPeerConnectionState): void {
    if (this.#leaving) return;
    if (state === "connected") {
      this.#monitor.marks.mark("ice");
      this.#liveSince = performance.now();
      this.#deadline(0);
      this.#set("live");
      this.#settle.resolve();
      if (this.#peer) this.#monitor.start(this.#peer.connection);
    } else if (state === "disconnected" && this.#state === "live") {
      this.#set("reconnecting"); // it may come back by itself; if not, it becomes "failed"
      if (!this.#restarts) void this.#restart();
    } else if (state === "failed") {
      this.#fail(new BridgeError("ice_failed"));
    }
  }

  /** Look for another path to the node: the network may have changed. Only the extension's bridges take it up. */
  async #restart(): Promise<void> {
    const peer = this.#peer;
    if (!peer || !this.#bridge?.extended || this.#away || !this.#answered) return;
    this.#moved = false;
    this.#restarts += 1;
    await peer.restart().catch(() => undefined);
    if (this.#peer !== peer) return;
    this.#bridge?.send({ type: "offer", sdp: peer.offer });
    clearTimeout(this.#restartTimer);
    this.#restartTimer = setTimeout(() => this.#bridge?.renew(), this.#options.timeouts.restart);
  }

  /** The node closed the connection. If the bridge knows more, it says so now. */
  #onNodeClosed(): void {
    if (!this.#answered) return;
    this.#leaving = true;
    const error = new BridgeError("session_ended");
    if (this.#bridge && !this.#away) this.#deadline(this.#options.timeouts.farewell, () => this.#end(error));
    else this.#rejoin(error); // the bridge is gone as well: nobody can have meant it
  }

  // ---- the ways out

  /** Something broke. Come back, if trying again can help and we had got somewhere before, or else end. */
  #fail(error: BridgeError, gotSomewhere = this.#liveSince > 0 || this.#state === "reconnecting"): void {
    if (error.retryable && gotSomewhere) this.#rejoin(error);
    else this.#end(error);
  }

  /** Begin again with a new socket and a new peer connection, if the policy and the count of attempts allow. */
  #rejoin(error: BridgeError): void {
    if (this.#liveSince && performance.now() - this.#liveSince > STEADY) this.#attempts = 0;
    const delay = REJOIN_DELAYS[this.#attempts++];
    if (!this.#options.autoRejoin || delay === undefined) return this.#end(error);
    this.emit("error", error);
    this.#drop();
    this.#set("reconnecting");
    this.#deadline(delay * (0.5 + Math.random()), () => this.#begin());
  }

  #end(error: BridgeError | null): void {
    if (this.#state === "ended") return;
    this.#error = error;
    this.#unwatch();
    this.#updates.close(error ?? new BridgeError("closed"));
    this.#drop();
    this.#control.close(error ?? new BridgeError("closed"));
    this.#settle.reject(error ?? new BridgeError("closed"));
    this.#set("ended");
  }

  /** Give up the socket and the peer connection. */
  #drop(): void {
    const bridge = this.#bridge;
    this.#bridge = null;
    this.#greeted = this.#away = false;
    bridge?.close();
    this.#updates.close(new BridgeError("closed"));
    this.#leave();
  }

  /** Give up the peer connection; the socket stays. */
  #leave(): void {
    this.#deadline(0);
    this.#control.detach();
    this.#monitor.stop();
    this.#answered = false;
    this.#leaving = this.#moved = false;
    this.#restarts = 0;
    clearTimeout(this.#restartTimer);
    this.#offer = "none";
    this.#status = null;
    this.#stand(null);
    const peer = this.#peer;
    this.#peer = null;
    peer?.close();
  }

  // ---- small things

  get #interrupted(): boolean {
    return this.#peer?.connection.connectionState === "disconnected";
  }

  #set(state: SessionState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.emit("state", state);
  }

  /** Go on towards live. What is being brought back says so until it waits in a line, or is live. */
  #advance(state: SessionState): void {
    const hidden = state === "authenticating" || state === "connecting";
    if (!(this.#state === "reconnecting" && hidden)) this.#set(state);
  }

  /** One deadline at a time: the step that we are in. 0 clears it. */
  #deadline(ms: number, passed?: () => void): void {
    clearTimeout(this.#timer);
    if (passed) this.#timer = setTimeout(passed, ms);
  }
}
