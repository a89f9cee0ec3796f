import type { ParamValue, ParamValues } from "rtcbridge";

/** What became of a change, for the line under the controls. */
export interface UpdateReport {
  sending(): void;
  applied(ms: number): void;
  refused(error: unknown): void;
}

/**
 * Sends changes one at a time: what changes while one is on its way is kept, newest value each, and follows.
 * A slider that is dragged so never builds a queue.
 */
export class Updates {
  readonly #send: (params: ParamValues) => Promise<ParamValues>;
  readonly #report: UpdateReport;
  #next: ParamValues = {};
  #busy = false;

  constructor(send: (params: ParamValues) => Promise<ParamValues>, report: UpdateReport) {
    this.#send = send;
    this.#report = report;
  }

  set(name: string, value: ParamValue): void {
    this.#next[name] = value;
    if (!this.#busy) void this.#run();
  }

  async #run(): Promise<void> {
    this.#busy = true;
    this.#report.sending();
    while (Object.keys(this.#next).length) {
      const params = this.#next;
      this.#next = {};
      const begin = performance.now();
      try {
        await this.#send(params);
        this.#report.applied(performance.now() - begin);
      } catch (error) {
        this.#report.refused(error);
      }
    }
    this.#busy = false;
  }
}
