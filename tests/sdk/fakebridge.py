"""A bridge and a node in one, for tests of the page and the TypeScript client: what it says is set by the test."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import uvicorn
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import rtcbridge

STATIC = Path(rtcbridge.__file__).parent / "gateway" / "static"
KEY = "sk_TEST01_my0Secret1Token2Value3"
FULL = "Maximum pool size reached. Cannot assign a new node."
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

NAMES = re.split(
    r"\s+",
    "Candy Mosaic Udnie Wave Starry-Night Scream Muse Feathers Rain-Princess Pointillism Composition Picasso "
    "Kandinsky Shipwreck Brushstrokes Woodblock Fresco Watercolour Charcoal Stained-Glass Gouache Ink Pastel "
    "Cubist Fauve Nocturne",
)
MODEL: dict[str, Any] = {
    "name": "styles",
    "title": "Painting styles",
    "params": [
        {
            "name": "style",
            "kind": "choice",
            "title": "Style",
            "default": "invert",
            "choices": [
                {"value": "none", "title": "None", "group": "Classic"},
                {"value": "invert", "title": "Invert", "group": "Classic"},
                {"value": "edges", "title": "Edges", "group": "Classic"},
                *({"value": n.lower(), "title": n.replace("-", " "), "group": "Paintings"} for n in NAMES),
            ],
        },
        {"name": "strength", "kind": "float", "title": "Strength", "default": 1.0, "min": 0, "max": 1, "step": 0.01},
        {"name": "smooth", "kind": "bool", "title": "Smooth over time", "default": False},
    ],
}


def paint(picture: np.ndarray, values: dict[str, Any]) -> np.ndarray:
    """The fake model: a picture that differs clearly from its source."""
    if values["style"] == "none":
        return picture
    if values["style"] == "edges":
        other = cv2.cvtColor(cv2.Canny(picture, 60, 160), cv2.COLOR_GRAY2BGR)
    elif values["style"] == "invert":
        other = 255 - picture
    else:
        other = cv2.applyColorMap(picture, hash(values["style"]) % 20)
    return cv2.addWeighted(other, values["strength"], picture, 1 - values["strength"], 0)


class Painted(MediaStreamTrack):
    """The client's video, painted, `delay` seconds later; always the newest frame."""

    kind = "video"

    def __init__(self, track: MediaStreamTrack, values: dict[str, Any], delay: float) -> None:
        super().__init__()
        self.newest: asyncio.Queue[VideoFrame | None] = asyncio.Queue()
        self.values, self.delay = values, delay
        self.frames = 0
        self.pump = asyncio.create_task(self._pump(track))

    async def _pump(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                await self.newest.put((time.monotonic() + self.delay, frame))
        await self.newest.put(None)

    async def recv(self) -> VideoFrame:
        item = await self.newest.get()
        if item is None:
            raise MediaStreamError
        due, frame = item
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        self.frames += 1
        new = VideoFrame.from_ndarray(paint(frame.to_ndarray(format="bgr24"), self.values), format="bgr24")
        new.pts, new.time_base = frame.pts, frame.time_base
        return new


@dataclass
class FakeBridge:
    """What the bridge answers. Tests change the fields while it runs, and send with `tell`."""

    demo: bool = True
    key: str = KEY
    model: dict[str, Any] | None = field(default_factory=lambda: MODEL)
    status: str = "waiting"
    delay: float = 0.0
    port: int = 0
    received: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    sockets: list[WebSocket] = field(default_factory=list)
    peers: list[RTCPeerConnection] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    # ---- called from the test's thread

    def tell(self, message: dict[str, Any]) -> None:
        """Send to the newest client."""
        self._call(self.sockets[-1].send_text(json.dumps(message)))

    def close_socket(self, code: int) -> None:
        """Close the newest client's socket."""
        self._call(self.sockets[-1].close(code))

    def lose_node(self) -> None:
        """End every peer connection without a word to the client, then say what a bridge says."""
        self._call(self._lose())

    def _call(self, work: Any) -> None:
        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    # ---- inside the server

    async def _lose(self) -> None:
        await self.sockets[-1].send_text('{"type":"error","message":"The node was lost."}')
        for peer in self.peers:
            await peer.close()
        self.peers.clear()
        await self.sockets[-1].send_text('{"type":"node_status","status":"pending"}')

    async def client(self, socket: WebSocket) -> None:
        """One client's socket."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await self.serve(socket)

    async def serve(self, socket: WebSocket) -> None:
        """Authenticate, then answer each message."""
        first = json.loads(await socket.receive_text())
        if first["type"] != "CREDENTIAL" or first["payload"]["credential"] != self.key:
            await socket.close(1008)
            return
        self.sockets.append(socket)
        await socket.send_text('{"type":"auth_success"}')
        peer: RTCPeerConnection | None = None
        try:
            while True:
                message = json.loads(await socket.receive_text())
                self.received.append(message)
                peer = await self.receive(socket, message) or peer
        except WebSocketDisconnect as end:
            if peer and end.code == 1000:
                await peer.close()

    async def receive(self, socket: WebSocket, message: dict[str, Any]) -> RTCPeerConnection | None:
        if message["type"] == "session_start":
            await socket.send_text(json.dumps({"type": "node_status", "status": self.status}))
        elif message["type"] == "offer" and self.status == "full":
            await socket.send_text(json.dumps({"type": "error", "message": FULL}))
        elif message["type"] == "offer" and self.status == "pending":
            await socket.send_text('{"type":"server_provisioning"}')
        elif message["type"] == "offer":
            return await self.answer(socket, message["sdp"])
        return None

    async def answer(self, socket: WebSocket, sdp: str) -> RTCPeerConnection:
        """Be the node. aiortc does not trickle: its candidates are in the answer, the client's in the offer."""
        peer = RTCPeerConnection()
        self.peers.append(peer)
        values = {p["name"]: p["default"] for p in (self.model or MODEL)["params"]}
        peer.on("track", lambda track: peer.addTrack(Painted(track, values, self.delay)))
        peer.on("datachannel", lambda channel: self.control(channel, values))
        await peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        await socket.send_text(json.dumps({"type": "answer", "sdp": peer.localDescription.sdp}))
        return peer

    def control(self, channel: Any, values: dict[str, Any]) -> None:
        channel.send(json.dumps({"type": "model", **MODEL, "values": values}))
        stats = {"type": "stats", "fps_in": 30, "fps_out": 30, "model_ms": 1000 * self.delay, "dropped": 0}
        channel.send(json.dumps(stats))

        def on_message(text: str) -> None:
            message = json.loads(text)
            self.updates.append(message["params"])
            if message["params"].get("strength", 0) > 1:
                error = {"type": "error", "id": message["id"], "message": "strength: expected a number from 0 to 1"}
                channel.send(json.dumps(error))
                return
            values.update(message["params"])
            channel.send(json.dumps({"type": "updated", "id": message["id"], "values": values}))

        channel.on("message", on_message)

    # ---- HTTP

    def authorized(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.key}"

    async def get_demo(self, request: Request) -> Response:
        return JSONResponse({"credential": self.key}) if self.demo else Response(status_code=404)

    async def get_pools(self, request: Request) -> Response:
        if not self.authorized(request):
            return Response(status_code=401)
        return JSONResponse([{"name": "default", "model": self.model}])

    async def get_page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": CSP})

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.get_page),
                Route("/v1/demo", self.get_demo),
                Route("/v1/pools", self.get_pools),
                WebSocketRoute("/client", self.client),
                Mount("/assets", StaticFiles(directory=STATIC / "assets")),
            ]
        )


@contextlib.contextmanager
def running(bridge: FakeBridge, port: int = 0) -> Iterator[FakeBridge]:
    """Serve `bridge` from a thread of its own."""
    listener = socket.create_server(("127.0.0.1", port))
    bridge.port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(bridge.app, log_level="error", ws="websockets-sansio"))

    async def serve() -> None:
        bridge.loop = asyncio.get_running_loop()
        await server.serve([listener])
        for peer in bridge.peers:
            await peer.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield bridge
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


if __name__ == "__main__":
    with running(FakeBridge(delay=0.05), 8765) as served:
        print(served.url, flush=True)
        threading.Event().wait()
