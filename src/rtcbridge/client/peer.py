"""The media connection of one session: pictures both ways, and the data channel `control`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rtcbridge.client.control import LABEL
from rtcbridge.media.port import EngineError

if TYPE_CHECKING:
    from rtcbridge.media.port import (
        I420,
        AudioFrame,
        AudioOut,
        ConnectionState,
        DataChannel,
        Engine,
        IcePolicy,
        IceServer,
        VideoFrame,
        VideoOut,
    )


class Ice(NamedTuple):
    """What to gather candidates with: STUN and TURN servers, and whether relayed candidates alone are used."""

    servers: Sequence[IceServer] = ()
    policy: IcePolicy = "all"


class PeerListener(Protocol):
    """Who is told, on the event loop; by a peer that was closed no more."""

    def on_offer(self, sdp: str) -> None:
        """An offer is to be sent."""

    def on_candidate(self, candidate: Mapping[str, Any]) -> None:
        """A candidate of this side is to be sent, behind the offer."""

    def on_peer_state(self, state: ConnectionState) -> None:
        """The state of the connection."""

    def on_peer_failed(self, error: EngineError) -> None:
        """An offer could not be made, or an answer not be applied."""

    def on_picture(self, picture: I420, now: float) -> None:
        """A picture came back at `now`, in seconds of `time.monotonic`."""

    def on_control(self, channel: DataChannel) -> None:
        """The control channel is open."""

    def on_control_message(self, data: str | bytes) -> None:
        """The node said something on it."""

    def on_control_closed(self) -> None:
        """The node has closed it, or the connection."""


class Peer:
    """One connection, which offers at once. Answers and candidates are applied in the order in which they came.

    Args:
        engine: makes the connection.
        ice: the servers to ask for candidates, and whether to use relays alone; None: they will be told by `use`.
        listener: who is told.

    Raises:
        EngineError: an ICE server is not valid.
    """

    def __init__(self, engine: Engine, ice: Ice | None, listener: PeerListener) -> None:
        self.answered = False
        self._listener: PeerListener | None = listener
        self._connection = engine.create_offerer(self, *(ice or ()))
        self._video: VideoOut = self._connection.add_video()
        self._connection.create_data_channel(LABEL)
        self._work: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._early: list[Mapping[str, Any] | None] = []  # of the other side, before its answer
        self._held: list[Mapping[str, Any] | None] | None = []  # of this side, before the offer
        self._work.put_nowait(("offer", False))
        if ice is not None:
            self._work.put_nowait(("gather", None))
        self._task = asyncio.create_task(self._run(), name="peer")

    @property
    def state(self) -> ConnectionState:
        """The connection's."""
        return self._connection.connection_state

    def send(self, picture: I420) -> None:
        """Send a picture, now."""
        self._video.send(picture)

    def restart(self) -> None:
        """Look for another path to the node."""
        self._work.put_nowait(("offer", True))

    def use(self, ice: Ice) -> None:
        """Ask these servers from now on."""
        self._work.put_nowait(("servers", ice))
        self._work.put_nowait(("gather", None))

    def answer(self, sdp: str) -> None:
        """Apply the node's answer."""
        self._work.put_nowait(("answer", sdp))

    def candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Add a candidate of the node."""
        self._work.put_nowait(("candidate", candidate))

    async def stats(self) -> dict[str, Any]:
        """Counters of the connection."""
        return await self._connection.get_stats()

    async def close(self) -> None:
        """Close for good."""
        self._listener = None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._connection.close()

    async def _run(self) -> None:
        while True:
            kind, value = await self._work.get()
            try:
                await self._do(kind, value)
            except EngineError as error:
                if kind in ("offer", "gather", "answer") and self._listener is not None:
                    self._listener.on_peer_failed(error)

    async def _do(self, kind: str, value: Any) -> None:
        match kind:
            case "offer":
                await self._offer(value)
            case "answer":
                await self._connection.accept(value)
                self.answered = True
                early, self._early = self._early, []
                for candidate in early:
                    self._work.put_nowait(("candidate", candidate))
            case "servers":
                self._connection.set_ice_servers(*value)
            case "gather":
                await self._connection.gather()
            case "candidate" if self.answered:
                await self._connection.add_ice_candidate(value)
            case "candidate":
                self._early.append(value)

    async def _offer(self, restart: bool) -> None:
        self._held = self._held or []
        sdp = await self._connection.offer(restart)
        held, self._held = self._held, None
        if self._listener is not None:
            self._listener.on_offer(sdp)
            for candidate in held:
                self._send_candidate(candidate)
        if restart:
            await self._connection.gather()

    def _send_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        end = {"sdpMid": "0", "sdpMLineIndex": 0, "candidate": ""}
        if self._listener is not None:
            self._listener.on_candidate(candidate or end)

    # --- from the engine (PeerEvents) ---

    def on_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Pass it on, behind the offer."""
        if self._held is None:
            self._send_candidate(candidate)
        else:
            self._held.append(candidate)

    def on_connection_state(self, state: ConnectionState) -> None:
        """Pass it on."""
        if self._listener is not None:
            self._listener.on_peer_state(state)

    def on_video_frame(self, frame: VideoFrame, out: VideoOut | None) -> None:
        """Copy the picture and pass it on."""
        if self._listener is not None:
            self._listener.on_picture(frame.i420(), time.monotonic())
        frame.close()

    def on_audio_frame(self, frame: AudioFrame, out: AudioOut | None) -> None:
        """No sound is sent, so none comes back."""

    def on_data_channel(self, channel: DataChannel) -> None:
        """Pass the control channel on."""
        if self._listener is not None and channel.label == LABEL:
            self._listener.on_control(channel)

    def on_message(self, channel: DataChannel, data: str | bytes) -> None:
        """Pass it on."""
        if self._listener is not None:
            self._listener.on_control_message(data)

    def on_channel_closed(self, channel: DataChannel) -> None:
        """Pass it on."""
        if self._listener is not None:
            self._listener.on_control_closed()
