"""One session on the node: its peer connection, its place at the worker, its control channel."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from rtcbridge.media.port import EngineError
from rtcbridge.node.control import LABEL, Control
from rtcbridge.node.delay import AudioDelay
from rtcbridge.node.params import ParamError, Params

if TYPE_CHECKING:
    from rtcbridge.media.port import (
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
    from rtcbridge.node.worker import Result, Worker

log = structlog.get_logger()

_MAX_INBOX = 256  # offers and candidates that wait; a client has some dozens
_MAX_HELD = 256  # candidates of the engine that wait for the answer
_CONNECT_TIMEOUT = 60.0  # seconds from the first answer; the bridge asks for less, unless it is gone
_STATS_EVERY = 1.0  # seconds
_STALLED = 5.0  # seconds in one call of the model after which its clients are told
_CLOSE_TIMEOUT = 1.5  # seconds that the engine has to close


class Signaling(Protocol):
    """Where a session's messages go. All calls return at once and keep their order."""

    def answer(self, session: str, sdp: str) -> None:
        """The answer to the last offer."""

    def candidate(self, session: str, candidate: Mapping[str, Any] | None) -> None:
        """A candidate of this side; None after the last. Never before the first answer."""

    def state(self, session: str, state: str) -> None:
        """`connected`, `disconnected`, `failed` or `closed`; after the last two the session is over."""

    def refused(self, session: str, message: str) -> None:
        """The session cannot be served, and is over."""


class SessionPeer:
    """A session, from its first offer until it is closed. It is the events of its peer connection.

    Args:
        session: its id.
        engine: makes the peer connection.
        worker: runs the model.
        signaling: where its messages go.
        ice_servers: what to ask for candidates.
        ice_transport_policy: whether others than relayed candidates may be used.

    Raises:
        EngineError: an ICE server is not valid.
    """

    def __init__(
        self,
        session: str,
        engine: Engine,
        worker: Worker,
        signaling: Signaling,
        ice_servers: Sequence[IceServer] = (),
        ice_transport_policy: IcePolicy = "all",
    ) -> None:
        self.session = session
        self.media_up = False
        self._signaling = signaling
        self._worker = worker
        self._peer = engine.create_peer(self, ice_servers, ice_transport_policy)
        self._mailbox = worker.open(self._on_result)
        self._control = Control(worker.spec, lambda: self._mailbox.params, self._set_params)
        self._delay = AudioDelay(asyncio.get_running_loop())
        self._inbox: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(_MAX_INBOX)
        self._held: list[Mapping[str, Any] | None] = []
        self._holding = True  # while an answer is being made; no candidate may overtake it
        self._answered = False
        self._over = False
        self._connect_timer: asyncio.TimerHandle | None = None
        self._tasks = [
            asyncio.create_task(self._work(), name="session"),
            asyncio.create_task(self._report(), name="session-stats"),
        ]

    # --- from the bridge ---

    def offer(self, sdp: str, params: Mapping[str, Any] | None = None, ice_servers: Sequence[IceServer] = ()) -> None:
        """Take an offer, the first or a later one; it is answered in its turn.

        `ice_servers` that a later one brings, with new credentials, are asked for candidates if it restarts ICE.
        """
        if params:
            try:
                self._control.change(params)
            except ParamError as error:
                log.warning("params_refused", session=self.session, error=str(error))
        self._enqueue("offer", (sdp, ice_servers))

    def update(self, params: Mapping[str, Any]) -> Params:
        """Change parameters of the model, as on the control channel; return all in force. Raises ParamError."""
        return self._control.change(params)

    def candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Take a candidate of the client; it is added behind the offers before it."""
        self._enqueue("candidate", candidate)

    def _enqueue(self, kind: str, value: Any) -> None:
        try:
            self._inbox.put_nowait((kind, value))
        except asyncio.QueueFull:
            log.warning("message_dropped", session=self.session, kind=kind)

    def stats(self) -> dict[str, Any]:
        """Return the session's counters."""
        box = self._mailbox
        return {"frames_in": box.received, "frames_out": box.delivered, "dropped": box.dropped}

    async def close(self) -> None:
        """End the session and release everything. A second call does nothing."""
        self._over = True
        self.media_up = False
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._connect_timer is not None:
            self._connect_timer.cancel()
        self._mailbox.close()
        self._delay.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._peer.close()
        except TimeoutError:
            log.warning("close_timed_out", session=self.session)

    # --- in order, one after another ---

    async def _work(self) -> None:
        while not self._over:
            kind, value = await self._inbox.get()
            try:
                if kind == "offer":
                    await self._answer(*value)
                else:
                    await self._peer.add_ice_candidate(value)
            except EngineError as error:
                if kind == "offer":
                    self._refuse(str(error))
                    return
                log.debug("candidate_refused", session=self.session, error=str(error))
            except Exception:
                log.error("session_failed", session=self.session, exc_info=True)
                self._refuse("internal error of the node")
                return

    async def _answer(self, sdp: str, ice_servers: Sequence[IceServer]) -> None:
        self._holding = True
        if self._answered and ice_servers:
            self._use(ice_servers)
        answer = await self._peer.answer(sdp)
        if self._over:
            return
        self._signaling.answer(self.session, answer)
        if not self._answered:
            self._answered = True
            loop = asyncio.get_running_loop()
            self._connect_timer = loop.call_later(_CONNECT_TIMEOUT, self._check_connected)
        self._holding = False
        held, self._held = self._held, []
        for candidate in held:
            self._signaling.candidate(self.session, candidate)

    def _use(self, ice_servers: Sequence[IceServer]) -> None:
        try:
            self._peer.set_ice_servers(ice_servers)
        except EngineError as error:  # the connection that is there goes on
            log.warning("ice_servers_refused", session=self.session, error=str(error))

    def _refuse(self, message: str) -> None:
        if not self._over:
            self._over = True
            self._signaling.refused(self.session, message)

    def _check_connected(self) -> None:
        if not self._over and self._peer.connection_state in ("new", "connecting"):
            self._end("failed")

    def _end(self, state: str) -> None:
        if not self._over:
            self._over = True
            self.media_up = False
            self._signaling.state(self.session, state)

    # --- from the engine (PeerEvents) ---

    def on_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Pass a candidate on, behind the answer."""
        if self._over:
            return
        if not self._holding:
            self._signaling.candidate(self.session, candidate)
        elif len(self._held) < _MAX_HELD:
            self._held.append(candidate)

    def on_connection_state(self, state: ConnectionState) -> None:
        """Report what the bridge wants to know; `failed` and `closed` end the session."""
        if self._over:
            return
        if state in ("failed", "closed"):
            self._end(state)
        elif state in ("connected", "disconnected"):
            # A short loss of the path is no end: media goes on when it returns.
            self.media_up = state == "connected"
            self._signaling.state(self.session, state)

    def on_video_frame(self, frame: VideoFrame, out: VideoOut | None) -> None:
        """Give a picture to the model."""
        if self._over:
            frame.close()
            return
        self._mailbox.put(frame, out)

    def on_audio_frame(self, frame: AudioFrame, out: AudioOut | None) -> None:
        """Send sound back, in step with the pictures."""
        if out is not None and not self._over:
            self._delay.put(frame, out.send)

    def on_data_channel(self, channel: DataChannel) -> None:
        """Take the control channel; others are not ours."""
        if channel.label == LABEL:
            self._control.open(channel)

    def on_message(self, channel: DataChannel, data: str | bytes) -> None:
        """Answer a message on the control channel."""
        if channel.label == LABEL:
            self._control.receive(channel, data)

    def on_channel_closed(self, channel: DataChannel) -> None:
        """Forget the control channel."""
        self._control.closed(channel)

    # --- from the worker ---

    def _on_result(self, result: Result) -> None:
        out: VideoOut | None = result.context
        if out is not None:
            out.send(result.picture)
        self._delay.observe(time.monotonic() - result.arrival)
        if result.error:
            self._control.model_failed(result.error)

    def _set_params(self, params: Params) -> None:
        self._mailbox.params = params

    async def _report(self) -> None:
        """Tell the client each second how it goes."""
        box = self._mailbox
        then, received, delivered, seconds = time.monotonic(), 0, 0, 0.0
        with contextlib.suppress(asyncio.CancelledError):
            while not self._over:
                await asyncio.sleep(_STATS_EVERY)
                now, frames = time.monotonic(), box.delivered - delivered
                model_ms = (box.model_seconds - seconds) / frames * 1000 if frames else 0.0
                span = now - then
                self._control.stats((box.received - received) / span, frames / span, model_ms, box.dropped)
                then, received, delivered, seconds = now, box.received, box.delivered, box.model_seconds
                if self._worker.busy_for() > _STALLED:
                    self._control.model_failed(f"the model has not returned for {_STALLED:g} seconds")
