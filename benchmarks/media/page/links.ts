/** The two ways to a node and back: the product's client, and a bare RTCPeerConnection. */

import { createClient, type FirstFrame, type Session } from "rtcbridge";

/** Moments on the way, milliseconds of `performance.now()`. */
export interface Marks {
  begin: number;
  open: number;
  offer: number;
}

export interface Link {
  stream: MediaStream;
  connection: RTCPeerConnection;
  marks: Marks;
  session: Session | null;
  /** Where the client says that the time to the first frame went; empty where nothing tells. */
  phases(): Promise<Partial<FirstFrame>>;
  close(): void;
}

/** A socket that notes when it opened and when the offer left. */
function marking(marks: Marks): typeof WebSocket {
  return class extends WebSocket {
    constructor(url: string | URL) {
      super(url);
      this.addEventListener("open", () => (marks.open = performance.now()));
    }

    override send(data: string): void {
      if (data.startsWith('{"type":"offer"')) marks.offer = performance.now();
      super.send(data);
    }
  };
}

/** Through the bridge, by the SDK. Resolves when media is up. */
export async function product(url: string, credential: string, stream: MediaStream, video: HTMLVideoElement): Promise<Link> {
  const marks: Marks = { begin: performance.now(), open: 0, offer: 0 };
  let connection!: RTCPeerConnection;
  class Kept extends RTCPeerConnection {
    constructor(configuration?: RTCConfiguration) {
      super(configuration);
      connection = this;
    }
  }
  const client = createClient({ url, credential, autoRejoin: false, WebSocket: marking(marks), RTCPeerConnection: Kept });
  const session = client.connect({ stream });
  session.attach(video);
  await session.ready;
  return {
    stream: session.stream,
    connection,
    marks,
    session,
    phases: () => phases(session),
    close: () => session.close(),
  };
}

/** They come with the first frame that the client sees. */
async function phases(session: Session): Promise<FirstFrame> {
  if (session.stats.firstFrame) return session.stats.firstFrame;
  return new Promise((resolve) => session.on("stats", ({ firstFrame }) => firstFrame && resolve(firstFrame)));
}

/** Straight to a node, with the settings that the product's client has. Resolves when media is up. */
export async function bare(url: string, stream: MediaStream, video: HTMLVideoElement): Promise<Link> {
  const marks: Marks = { begin: performance.now(), open: 0, offer: 0 };
  const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  connection.createDataChannel("control");
  for (const track of stream.getTracks()) connection.addTransceiver(track, { direction: "sendrecv", streams: [stream] });
  connection.ontrack = ({ receiver, streams }) => {
    receiver.jitterBufferTarget = 0;
    video.srcObject = streams[0] ?? new MediaStream([receiver.track]);
    void video.play();
  };
  const up = new Promise<void>((resolve, reject) => {
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === "connected") resolve();
      if (connection.connectionState === "failed") reject(new Error("the connection failed"));
    };
  });
  const socket = new (marking(marks))(url);
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("the bare peer cannot be reached"));
  });
  let answered: () => void;
  let applied = new Promise<void>((resolve) => (answered = resolve));
  socket.onmessage = ({ data }: MessageEvent<string>) => {
    const message = JSON.parse(data) as { sdp?: string; candidate?: RTCIceCandidateInit };
    if (message.sdp) void connection.setRemoteDescription({ type: "answer", sdp: message.sdp }).then(answered);
    else applied = applied.then(() => connection.addIceCandidate(message.candidate));
  };
  let sent = false;
  connection.onicecandidate = ({ candidate }) => {
    if (candidate && sent) socket.send(JSON.stringify({ type: "candidate", candidate }));
  };
  await Promise.all([opened, connection.setLocalDescription()]);
  socket.send(JSON.stringify({ type: "offer", sdp: connection.localDescription?.sdp }));
  sent = true;
  await up;
  const close = (): void => {
    connection.close();
    socket.close();
  };
  return { stream: video.srcObject as MediaStream, connection, marks, session: null, phases: () => Promise.resolve({}), close };
}
