import { Replay } from "./replay.ts";
import { Signaling } from "./signaling.ts";
import type { FromBridge, ToBridge } from "./wire.ts";

const RESUME_DELAYS = [200, 500, 1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000, 8000]; // ms: about a minute in all
const RESUMABLE: readonly number[] = [1006, 1011, 1012, 1013];
const REFUSALS: readonly unknown[] = ["resume_unknown", "resume_gap"];

/** What a Bridge reports. Nothing is reported after `close()` was called here. */
export interface BridgeHandlers {
  /** The first socket is open: to be greeted. */
  open(): void;
  message(message: FromBridge): void;
  /** The socket dropped, and the session is to be taken up on another one. What is sent meanwhile is kept. */
  lost(): void;
  /** It was taken up; everything that was sent before has been sent again where it was lost. */
  back(): void;
  /** There is no socket and there will be none. `code` is that of the last close. */
  close(code: number): void;
}

export interface BridgeOptions {
  url: string;
  WebSocket: typeof WebSocket;
  openTimeout: number;
  credential: string | (() => string | Promise<string>);
  /** Take the session up again when the socket drops. */
  resume: boolean;
}

/**
 * The way to the bridge for one session: one socket, or one after another if the bridge speaks the extension.
 *
 * Then a socket that drops is followed by another one, which takes the session up where it was: nothing is lost and nothing
 * comes twice, both ways. It gives up when the bridge does not know the session any more, closes the door, or cannot be
 * reached for about a minute.
 */
export class Bridge {
  readonly #options: BridgeOptions;
  readonly #replay = new Replay();
  #handlers: BridgeHandlers | null;
  #signaling: Signaling;
  /** The socket before this one, if it may still be open. */
  #older: Signaling | null = null;
  /** Of the present socket; it is fetched while that opens. */
  #secret: Promise<string> = Promise.resolve("");
  #token = "";
  /** The new socket has not taken the session up yet. */
  #resuming = false;
  #attempts = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: BridgeOptions, handlers: BridgeHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.#signaling = this.#dial(() => this.#handlers?.open());
  }

  /** Whether the bridge speaks the extension; known once it is open. */
  get extended(): boolean {
    return this.#signaling.extended || this.#token !== "";
  }

  /** Show the credential. Rejects if it cannot be had. */
  async greet(): Promise<void> {
    const signaling = this.#signaling;
    const secret = await this.#secret;
    signaling.send(JSON.stringify({ type: "CREDENTIAL", payload: { credential: secret } } satisfies ToBridge));
  }

  /** Send a message, now or when the session has been taken up again. */
  send(message: ToBridge): void {
    const frame = JSON.stringify(message);
    if (this.extended) this.#replay.put(frame, message.type);
    if (!this.#resuming) this.#signaling.send(frame);
  }

  /**
   * Take the session up on another socket, since this one may lead nowhere: the network has changed. Only what the bridge
   * takes up closes the older one, whose Close frame would end the session.
   */
  renew(): void {
    if (!this.#token || !this.#options.resume || this.#resuming) return;
    this.#handlers?.lost();
    this.#resuming = true;
    this.#signaling.abandon();
    this.#older = this.#signaling;
    this.#signaling = this.#dial(() => void this.#resume());
  }

  /** Close with a Close frame, which ends the session at the bridge. */
  close(): void {
    this.#handlers = null;
    clearTimeout(this.#timer);
    this.#signaling.close();
    this.#closeOlder();
  }

  #closeOlder(): void {
    this.#older?.close();
    this.#older = null;
  }

  #dial(open: () => void): Signaling {
    const { url, WebSocket, openTimeout, credential } = this.#options;
    this.#secret = typeof credential === "function" ? (async () => credential())() : Promise.resolve(credential);
    this.#secret.catch(() => undefined); // `greet` says so
    const message = (message: FromBridge): void => this.#receive(message);
    const close = (code: number): void => this.#closed(code);
    return new Signaling(url, WebSocket, { open, message, close }, openTimeout);
  }

  #receive(message: FromBridge): void {
    if (!this.#signaling.extended) return this.#handlers?.message(message);
    switch (message.type) {
      case "auth_success":
        if (this.#resuming) {
          // Of a new session, which is dropped when the old one is taken up. Its servers are good for any.
          if (message.ice_servers) this.#handlers?.message({ type: "ice_servers", ice_servers: message.ice_servers });
          return;
        }
        this.#token = message.resume ?? "";
        return this.#handlers?.message(message);
      case "session_resume":
        return this.#resumed(message.received, message.anew === true);
      case "ack":
        return void this.#replay.missed(message.received);
      case "reconnect":
        return; // its close follows
      case "error":
        if (this.#resuming && REFUSALS.includes(message.code)) return this.#giveUp(1006);
    }
    if (message.type === "answer") this.#replay.answered();
    if (this.#replay.take()) this.#acknowledge();
    this.#handlers?.message(message);
  }

  #closed(code: number): void {
    const resume = this.#token && this.#options.resume && RESUMABLE.includes(code);
    const delay = RESUME_DELAYS[this.#attempts++];
    if (!resume || delay === undefined) return this.#giveUp(code);
    if (!this.#resuming) this.#handlers?.lost();
    this.#resuming = true;
    this.#timer = setTimeout(() => {
      this.#signaling = this.#dial(() => void this.#resume());
    }, delay * (0.5 + Math.random()));
  }

  async #resume(): Promise<void> {
    const signaling = this.#signaling;
    if (!signaling.extended) return this.#giveUp(1006); // it has become another bridge
    try {
      await this.greet();
    } catch {
      if (signaling !== this.#signaling || !this.#handlers) return;
      signaling.close();
      return this.#closed(1006); // whoever makes tokens may be back for the next try
    }
    const { taken } = this.#replay;
    signaling.send(
      JSON.stringify({ type: "session_resume", resume: this.#token, received: taken } satisfies ToBridge),
    );
  }

  #acknowledge(): void {
    this.#signaling.send(JSON.stringify({ type: "ack", received: this.#replay.taken } satisfies ToBridge));
  }

  #resumed(received: number, anew: boolean): void {
    this.#resuming = false;
    this.#attempts = 0;
    this.#closeOlder();
    if (anew) {
      this.#replay.restart();
      this.#acknowledge(); // so that the bridge knows that we know
    }
    for (const frame of this.#replay.missed(received)) this.#signaling.send(frame);
    this.#handlers?.back();
  }

  #giveUp(code: number): void {
    const handlers = this.#handlers;
    this.#older = null; // the session goes on at the bridge for as long as its media
    this.close();
    handlers?.close(code);
  }
}
