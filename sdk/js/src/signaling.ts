import { parse, SUBPROTOCOL, type FromBridge } from "./wire.ts";

/** What a Signaling reports. Nothing is reported after `close()` was called here. */
export interface SignalingHandlers {
  open(): void;
  message(message: FromBridge): void;
  /** The socket ended; 1006 also when it never opened. */
  close(code: number): void;
}

/**
 * One socket to the bridge: JSON out, JSON in, one end.
 *
 * It offers the extension. Browsers fail a connection whose server chooses none of the subprotocols that were
 * offered, and do not say that this was the reason: so a socket that does not open is dialled once more without.
 */
export class Signaling {
  readonly #url: string;
  readonly #Socket: typeof WebSocket;
  readonly #timer: ReturnType<typeof setTimeout>;
  #socket: WebSocket;
  #handlers: SignalingHandlers | null;

  constructor(url: string, Socket: typeof WebSocket, handlers: SignalingHandlers, openTimeout: number) {
    this.#url = url;
    this.#Socket = Socket;
    this.#handlers = handlers;
    this.#timer = setTimeout(() => this.#end(1006), openTimeout);
    this.#socket = this.#dial([SUBPROTOCOL]);
  }

  /** Whether the bridge speaks the extension; to be asked once it is open. */
  get extended(): boolean {
    return this.#socket.protocol === SUBPROTOCOL;
  }

  /** Send, if the socket is open; a message for a socket that is gone has no reader. */
  send(frame: string): void {
    if (this.#socket.readyState === 1) this.#socket.send(frame);
  }

  /** Close with a Close frame, which ends the session at the bridge, and report nothing more. */
  close(): void {
    this.#handlers = null;
    clearTimeout(this.#timer);
    this.#socket.close(1000);
  }

  /** Report nothing more, and leave the socket open. */
  abandon(): void {
    this.#handlers = null;
    clearTimeout(this.#timer);
  }

  #dial(protocols: string[]): WebSocket {
    const socket = protocols.length ? new this.#Socket(this.#url, protocols) : new this.#Socket(this.#url);
    let opened = false;
    socket.onopen = () => {
      opened = true;
      clearTimeout(this.#timer);
      this.#handlers?.open();
    };
    socket.onmessage = (event: MessageEvent) => {
      const message = parse<FromBridge>(event.data);
      if (message) this.#handlers?.message(message);
    };
    socket.onclose = (event: CloseEvent) => {
      if (!opened && protocols.length && this.#handlers) this.#socket = this.#dial([]);
      else this.#end(event.code);
    };
    return socket;
  }

  #end(code: number): void {
    const handlers = this.#handlers;
    this.close();
    handlers?.close(code);
  }
}
