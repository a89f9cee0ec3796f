import { parse, type FromBridge, type ToBridge } from "./wire.ts";

/** What a Signaling reports. Nothing is reported after `close()` was called here. */
export interface SignalingHandlers {
  open(): void;
  message(message: FromBridge): void;
  /** The socket ended; 1006 also when it never opened. */
  close(code: number): void;
}

/** One socket to the bridge: JSON out, JSON in, one end. */
export class Signaling {
  readonly #socket: WebSocket;
  #handlers: SignalingHandlers | null;

  constructor(url: string, Socket: typeof WebSocket, handlers: SignalingHandlers, openTimeout: number) {
    this.#handlers = handlers;
    this.#socket = new Socket(url);
    const timer = setTimeout(() => this.#end(1006), openTimeout);
    this.#socket.onopen = () => {
      clearTimeout(timer);
      this.#handlers?.open();
    };
    this.#socket.onmessage = (event: MessageEvent) => {
      const message = parse<FromBridge>(event.data);
      if (message) this.#handlers?.message(message);
    };
    this.#socket.onclose = (event: CloseEvent) => {
      clearTimeout(timer);
      this.#end(event.code);
    };
  }

  /** Send, if the socket is open; a message for a socket that is gone has no reader. */
  send(message: ToBridge): void {
    if (this.#socket.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  /** Close with a Close frame, which ends the session at the bridge, and report nothing more. */
  close(): void {
    this.#handlers = null;
    this.#socket.close(1000);
  }

  #end(code: number): void {
    const handlers = this.#handlers;
    this.close();
    handlers?.close(code);
  }
}
