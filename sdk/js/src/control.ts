import { BridgeError } from "./errors.ts";
import { parse, type FromNode, type Model, type NodeStats, type ParamValues } from "./wire.ts";

const MAX_MESSAGE = 16 * 1024;

/** What a Control reports. */
export interface ControlHandlers {
  model(model: Model): void;
  values(values: ParamValues): void;
  stats(stats: NodeStats): void;
  failed(message: string): void;
  /** The node closed the channel, or its connection. */
  closed(): void;
}

interface Request {
  params: ParamValues;
  resolve(values: ParamValues): void;
  reject(error: BridgeError): void;
  timer?: ReturnType<typeof setTimeout>;
}

/**
 * The model's parameters over the data channel `control`.
 *
 * It outlives a channel: what was asked for and not acknowledged is asked for again on the next one, and a
 * new node first gets the values that the last one had acknowledged.
 */
export class Control {
  readonly #handlers: ControlHandlers;
  readonly #timeout: number;
  readonly #requests = new Map<number, Request>();
  #channel: RTCDataChannel | null = null;
  #base: ParamValues;
  #baseId = 0;
  #id = 0;

  constructor(initial: ParamValues, handlers: ControlHandlers, timeout: number) {
    this.#base = { ...initial };
    this.#handlers = handlers;
    this.#timeout = timeout;
  }

  /** Use `channel` from now on. */
  attach(channel: RTCDataChannel): void {
    this.detach();
    this.#channel = channel;
    channel.onopen = () => this.#open();
    channel.onmessage = ({ data }: MessageEvent) => {
      const message = parse<FromNode>(data);
      if (message) this.#receive(message);
    };
    channel.onclose = () => {
      if (this.#channel === channel) this.#handlers.closed();
    };
  }

  /** Stop using the channel; what is not acknowledged waits for the next. */
  detach(): void {
    this.#channel = null;
    this.#take(this.#baseId);
    for (const request of this.#requests.values()) clearTimeout(request.timer);
  }

  /** Change parameters. Resolves with all values then in force; rejects with `rejected`, `timeout` or `closed`. */
  update(params: ParamValues): Promise<ParamValues> {
    const id = ++this.#id;
    if (new TextEncoder().encode(frame(id, params)).length > MAX_MESSAGE) {
      return Promise.reject(new BridgeError("rejected", "The parameters are longer than 16 KiB."));
    }
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { params: { ...params }, resolve, reject });
      this.#send(id);
    });
  }

  /** These were acknowledged on another way: a new node gets them, too. */
  remember(params: ParamValues): void {
    Object.assign(this.#base, params);
  }

  /** Reject what is not acknowledged. */
  close(error: BridgeError): void {
    this.detach();
    for (const id of [...this.#requests.keys()]) this.#take(id)?.reject(error);
  }

  #open(): void {
    // The initial parameters and those of a lost node are a request of our own, in front of the callers'.
    const waiting = [...this.#requests.keys()];
    if (Object.keys(this.#base).length) {
      const reject = (error: BridgeError): void => this.#handlers.failed(error.message);
      this.#baseId = ++this.#id;
      this.#requests.set(this.#baseId, {
        params: this.#base,
        resolve: () => undefined,
        reject,
      });
      this.#send(this.#baseId);
    }
    for (const id of waiting) this.#send(id);
  }

  #send(id: number): void {
    const request = this.#requests.get(id);
    if (!request || this.#channel?.readyState !== "open") return;
    this.#channel.send(frame(id, request.params));
    request.timer = setTimeout(() => this.#take(id)?.reject(new BridgeError("timeout")), this.#timeout);
  }

  #receive(message: FromNode): void {
    if (message.type === "model") {
      const { name, title, params, values } = message;
      this.#handlers.model({ name, title, params });
      this.#handlers.values(values);
    } else if (message.type === "stats") {
      this.#handlers.stats(message);
    } else if (message.type === "updated") {
      const request = this.#take(message.id);
      Object.assign(this.#base, request?.params);
      this.#handlers.values(message.values);
      request?.resolve(message.values);
    } else if (message.type === "error") {
      const request = message.id === undefined ? undefined : this.#take(message.id);
      if (request) request.reject(new BridgeError("rejected", message.message));
      else this.#handlers.failed(message.message);
    }
  }

  #take(id: number): Request | undefined {
    const request = this.#requests.get(id);
    clearTimeout(request?.timer);
    this.#requests.delete(id);
    return request;
  }
}

function frame(id: number, params: ParamValues): string {
  return JSON.stringify({ type: "update", id, params });
}
