/** What the protocol says that a client makes of what it is told, as far as an app can see it. Not the SDK's own code. */

import type { Message } from "./vectors.ts";

/** The texts of the documented API and of part 2, which a bridge without the extension tells errors by. */
const TEXTS: Record<string, string> = {
  "Maximum pool size reached. Cannot assign a new node.": "pool_full",
  "Failed to start a stopped node.": "start_failed",
  "The node was lost.": "node_lost",
  "The node did not answer.": "no_answer",
  "The node could not go on with the session.": "node_refused",
  "No media arrived in time after the answer.": "no_media",
  "The session reached its maximum length.": "session_too_long",
  "Too many candidates before the node is ready.": "too_many_candidates",
};
const FINAL = ["start_failed", "no_answer", "node_refused", "no_media", "session_too_long"];
const UNCOUNTED = ["auth_success", "session_resume", "ack", "reconnect"];
const CLOSES: Record<number, string> = {
  1003: "bad_input",
  1006: "network",
  1008: "policy",
  1009: "bad_input",
  1012: "shutdown",
  1013: "overloaded",
};
const COMES_BACK = [1006, 1011, 1012, 1013]; // and a bridge of the extension is asked for the session again

/** What an app sees of a session. */
export interface Seen {
  state: string;
  error: string | null;
  errors: string[];
  place: number | null;
  applied: (string | null)[];
}

/** The rules, one method a thing that can happen. */
export class Rules implements Seen {
  state = "connecting";
  error: string | null = null;
  errors: string[] = [];
  place: number | null = null;
  applied: (string | null)[] = [];
  /** Numbered messages that were taken. */
  received = 0;
  extended = false;
  /** The session is with another socket, or over: what this one is told has no meaning any more. */
  over = false;
  #authenticated = false;
  #resuming = false;
  #status: string | null = null;
  #answered = false;
  #early: (string | null)[] = [];

  get live(): boolean {
    return this.state === "live";
  }

  get mayResume(): boolean {
    return this.extended && this.#authenticated && !this.over;
  }

  open(extended: boolean, resumed: boolean): void {
    this.extended = extended;
    this.#resuming = resumed;
    if (!resumed) this.state = "authenticating";
  }

  media(): void {
    if (this.#answered && !this.over) this.state = "live";
  }

  told(message: Message): void {
    if (this.over) return;
    if (this.#resuming && message.code === "resume_unknown") return this.#lost("network");
    if (message.type === "session_resume") this.#resuming = false;
    if (!UNCOUNTED.includes(message.type)) this.received += 1;
    switch (message.type) {
      case "auth_success":
        this.#authenticated = true;
        break;
      case "node_status":
        this.place = (message.position as number | undefined) ?? null;
        this.#stand(message.status as string);
        break;
      case "server_provisioning":
        this.#stand("pending");
        break;
      case "answer":
        this.#answer(message.sdp as string);
        break;
      case "candidate":
        this.#candidate(message.candidate as { candidate: string | null } | null);
        break;
      case "error":
        this.#fail(message);
        break;
      case "session_end": // media that is up says by itself how it ends
        if (!this.live) this.#end("session_ended");
    }
  }

  /** The socket has ended, by the bridge or the network. */
  closed(code: number): void {
    if (this.over) return;
    if (this.mayResume && COMES_BACK.includes(code)) return;
    if (!this.#authenticated) return this.#end(code === 1008 ? "auth_failed" : "network");
    const error = CLOSES[code]!;
    if (this.live) this.over = true; // media goes on without a socket
    else if (["policy", "bad_input"].includes(error)) this.#end(error);
    else this.#lost(error);
  }

  left(): void {
    if (!this.over) this.#end(null);
  }

  #stand(status: string): void {
    if (this.#answered) return;
    this.#status = status;
    this.state = status === "waiting" ? "negotiating" : status; // the offer is with the bridge
  }

  #answer(sdp: string): void {
    if (this.#answered) return; // it was sent again
    this.#answered = true;
    this.state = "negotiating";
    this.applied.push(sdp, ...this.#early);
    this.#early = [];
  }

  #candidate(candidate: { candidate: string | null } | null): void {
    (this.#answered ? this.applied : this.#early).push(candidate?.candidate ?? null);
  }

  #fail({ message, code }: Message): void {
    const told = (code as string | undefined) ?? TEXTS[message as string] ?? "bad_input";
    if (told === "pool_full") {
      if (this.#status !== "full") this.#end(told);
    } else if (FINAL.includes(told)) this.#end(told);
    else {
      this.errors.push(RENAMED[told] ?? told);
      if (told === "node_lost") this.#rejoin();
    }
  }

  /** The bridge has us at the front of the line: all begins again, on the same socket. */
  #rejoin(): void {
    this.state = "reconnecting";
    this.place = this.#status = null;
    this.#answered = false;
    this.applied = [];
  }

  /** The session cannot be gone on with. The client begins another one, or shows the media that it has. */
  #lost(error: string): void {
    this.errors.push(error);
    if (!this.live) {
      this.state = "reconnecting";
      this.place = null;
      this.applied = [];
    }
    this.over = true;
  }

  #end(error: string | null): void {
    this.state = "ended";
    this.error = error;
    this.place = null;
    this.applied = [];
    this.over = true;
  }
}

/** Codes of the extension that an app sees by another name. */
const RENAMED: Record<string, string> = {
  update_refused: "rejected",
  bad_message: "bad_input",
  resume_unknown: "bad_input",
};
