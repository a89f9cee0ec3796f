/** Exactly once and in order, over sockets that drop: what this side has said, and how much it has heard. */

const ACK_EVERY = 16; // messages of the bridge between two acknowledgements

/**
 * The client's end of the counting in `rtcbridge.v2`: the n-th counted message has the number n, which is not sent.
 * What the bridge has not acknowledged is kept, to be sent again on the next socket.
 */
export class Replay {
  #sent = 0;
  #taken = 0;
  #kept: { frame: string; type: string }[] = [];
  #unanswered = 0; // offers

  /** How many messages of the bridge have been taken. */
  get taken(): number {
    return this.#taken;
  }

  /** Number and keep a message of ours. */
  put(frame: string, type: string): void {
    this.#sent += 1;
    this.#kept.push({ frame, type });
    if (type === "offer") this.#unanswered += 1;
  }

  /** An answer has come to the oldest offer without one. */
  answered(): void {
    this.#unanswered = Math.max(0, this.#unanswered - 1);
  }

  /**
   * Count from 1 again, both ways: the bridge goes on with a live session without knowing how it began. What it has not
   * acknowledged counts as not sent, but for what has had its effect: `session_start`, and offers that were answered.
   */
  restart(): void {
    let answered = this.#kept.filter(({ type }) => type === "offer").length - this.#unanswered;
    this.#kept = this.#kept.filter(({ type }) => type !== "session_start" && (type !== "offer" || answered-- <= 0));
    this.#sent = this.#kept.length;
    this.#taken = 0;
  }

  /** Count a message of the bridge; whether it is time to acknowledge. */
  take(): boolean {
    this.#taken += 1;
    return this.#taken % ACK_EVERY === 0;
  }

  /** The bridge has taken so many: return what it has not, in order. */
  missed(received: number): readonly string[] {
    const left = Math.max(0, this.#sent - received);
    if (left < this.#kept.length) this.#kept.splice(0, this.#kept.length - left);
    return this.#kept.map(({ frame }) => frame);
  }
}
