/** What of the Network Information API is looked at; not in all browsers. */
interface Connection extends EventTarget {
  /** "wifi", "cellular" and so on; on phones only. */
  readonly type?: string;
}

/**
 * Call `moved` when the machine may be on another network: it is online again, or the kind of the network has changed. Figures
 * such as its speed, for which the same event comes, do not count. Returns what ends it.
 */
export function watchNetwork(moved: () => void): () => void {
  const page = globalThis as { addEventListener?: EventTarget["addEventListener"] } & typeof globalThis;
  const connection = (globalThis.navigator as (Navigator & { connection?: Connection }) | undefined)?.connection;
  let kind = connection?.type;
  const changed = (): void => {
    if (connection?.type === kind) return;
    kind = connection?.type;
    moved();
  };
  page.addEventListener?.("online", moved);
  connection?.addEventListener?.("change", changed);
  return () => {
    page.removeEventListener?.("online", moved);
    connection?.removeEventListener?.("change", changed);
  };
}
