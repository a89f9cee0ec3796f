import { BridgeError } from "./errors.ts";
import type { FromBridge, ParamValues, ToBridge } from "./wire.ts";

/** As it comes from the bridge; ours are numbers. */
type UpdateId = (FromBridge & { type: "updated" })["id"];

interface Request {
  resolve(values: ParamValues): void;
  reject(error: BridgeError): void;
  timer?: ReturnType<typeof setTimeout>;
}

/** Changes of the model's parameters over the socket, each until it is acknowledged. */
export class Updates {
  readonly #timeout: number;
  readonly #requests = new Map<number, Request>();
  #id = 0;
  #paused = false;

  constructor(timeout: number) {
    this.#timeout = timeout;
  }

  /** Send a change. Resolves with all values then in force; rejects with the bridge's error, `timeout` or `closed`. */
  update(params: ParamValues, send: (message: ToBridge) => void): Promise<ParamValues> {
    const id = ++this.#id;
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { resolve, reject });
      send({ type: "update", id, params });
      this.#wait(id);
    });
  }

  /** Take an acknowledgement. */
  receive(message: FromBridge & { type: "updated" }): void {
    this.#take(message.id)?.resolve(message.values);
  }

  /** Take the error that answers a change; false if it answers none. */
  fail(id: UpdateId, error: BridgeError): boolean {
    const request = this.#take(id);
    request?.reject(error);
    return request !== undefined;
  }

  /** The socket dropped: nothing can be late until it is back. */
  pause(): void {
    this.#paused = true;
    for (const { timer } of this.#requests.values()) clearTimeout(timer);
  }

  /** The socket is back, and has what was sent. */
  goOn(): void {
    this.#paused = false;
    for (const id of this.#requests.keys()) this.#wait(id);
  }

  /** Reject what is not acknowledged. */
  close(error: BridgeError): void {
    this.#paused = false;
    for (const id of [...this.#requests.keys()]) this.fail(id, error);
  }

  #wait(id: number): void {
    const request = this.#requests.get(id);
    if (request && !this.#paused)
      request.timer = setTimeout(() => this.fail(id, new BridgeError("timeout")), this.#timeout);
  }

  #take(id: UpdateId): Request | undefined {
    if (typeof id !== "number") return undefined; // not one of ours
    const request = this.#requests.get(id);
    clearTimeout(request?.timer);
    this.#requests.delete(id);
    return request;
  }
}
