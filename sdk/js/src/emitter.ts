/** A typed event emitter: one map from event name to payload. */
export class Emitter<Events extends object> {
  readonly #handlers = new Map<keyof Events, Set<(payload: never) => void>>();

  /** Call `handler` on every `event`; returns a function that stops it. */
  on<K extends keyof Events>(event: K, handler: (payload: Events[K]) => void): () => void {
    let handlers = this.#handlers.get(event);
    if (!handlers) this.#handlers.set(event, (handlers = new Set()));
    const own = (payload: Events[K]): void => handler(payload); // the same function may be added twice
    handlers.add(own);
    return () => void handlers.delete(own);
  }

  /** Call the handlers in the order of `on`. One that throws stops no other, and its exception is not lost. */
  protected emit<K extends keyof Events>(event: K, payload: Events[K]): void {
    for (const handler of [...(this.#handlers.get(event) ?? [])]) {
      try {
        (handler as (payload: Events[K]) => void)(payload);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
