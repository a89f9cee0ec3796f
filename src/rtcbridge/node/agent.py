"""The agent: one per node. It serves the sessions that the bridge sends, and knows what may be served.

The node is the last authority on its slots: an offer above its capacity is refused, whatever the bridge says.
Media never depends on the link: sessions live on while it is down, and are listed when it is back.
"""

from __future__ import annotations

import asyncio
import platform
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog

from rtcbridge.core.messages import (
    UPDATES,
    Drain,
    FromBridge,
    Heartbeat,
    NodeAnswer,
    NodeCandidate,
    NodeError,
    NodeUpdated,
    Register,
    Registered,
    RegisterPayload,
    SessionEnd,
    SessionState,
    ToNodeCandidate,
    ToNodeOffer,
    ToNodeUpdate,
    raw,
)
from rtcbridge.media.port import EngineError, IceServer
from rtcbridge.node.link import Link, LinkConfig, Outcome
from rtcbridge.node.params import ParamError
from rtcbridge.node.peer import SessionPeer

if TYPE_CHECKING:
    from msgspec import Struct

    from rtcbridge.media.port import Engine
    from rtcbridge.node.worker import Worker

log = structlog.get_logger()

_MAX_UNSENT = 1024  # answers and candidates kept while the link is down
_MAX_ENDED = 1024  # ids remembered, so that a late message does not open a session again
_MAX_SESSIONS = 256  # on a node that was not told its slots; then the bridge alone counts them
_MAX_ICE_SERVERS = 16
_MIN_HEARTBEAT, _MAX_HEARTBEAT = 0.05, 60.0  # seconds
_STOP_TIMEOUT = 1.8  # seconds
_REMIND_EVERY = 15.0  # seconds between log lines while the model is not ready


class ExitStatus(IntEnum):
    """How the node ended."""

    OK = 0
    REFUSED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Who this node is.

    Attributes:
        link: where to dial.
        credential: `nk_…`.
        node: its id, the one that its provider made or one of its own.
        pool: the pool that it joins.
        slots: sessions at one time; None leaves the number to the pool.
        ice_servers: asked for candidates where an offer brings none.
    """

    link: LinkConfig
    credential: str
    node: str
    pool: str = "default"
    slots: int | None = None
    ice_servers: Sequence[IceServer] = ()

    def __repr__(self) -> str:
        return f"AgentConfig(node={self.node!r}, pool={self.pool!r}, slots={self.slots!r})"


class Agent:
    """Serves sessions until it is stopped, drained, or refused. It is the signaling of its sessions."""

    def __init__(self, config: AgentConfig, engine: Engine, worker: Worker) -> None:
        self._config = config
        self._engine = engine
        self._worker = worker
        self._link = Link(config.link, self._register, self._on_registered, self._on_message, self._keep)
        self._sessions: dict[str, SessionPeer] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._unsent: deque[NodeAnswer | NodeCandidate | NodeUpdated] = deque(maxlen=_MAX_UNSENT)
        self._background: set[asyncio.Task[None]] = set()
        self._heartbeat: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._draining = False
        self._leaving: asyncio.Task[None] | None = None  # waits for the end of the sessions, or of the patience
        self._stopping = False
        self.epoch = 0

    @property
    def sessions(self) -> list[str]:
        """Ids of the sessions that it serves."""
        return list(self._sessions)

    async def run(self) -> ExitStatus:
        """Set up the model and warm it up, then register and serve.

        Raises:
            ModelError: the model cannot be set up, or fails on its first frame. The bridge has not been dialled.
        """
        try:
            await self._prepare()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return ExitStatus.OK
        try:
            outcome = await self._link.run()
        finally:
            await self._shut_down()
        return ExitStatus.REFUSED if outcome is Outcome.REFUSED else ExitStatus.OK

    async def _prepare(self) -> None:
        """Wait until the model is ready for a client's first frame; say now and again what it is at."""
        started = time.monotonic()
        self._starting = asyncio.create_task(self._worker.start(), name="model-setup")
        name = self._worker.spec.name
        while not (await asyncio.wait([self._starting], timeout=_REMIND_EVERY))[0]:
            spent = round(time.monotonic() - started)
            log.info("model_not_ready_yet", model=name, phase=self._worker.phase, seconds=spent)
        await self._starting
        seconds = round(time.monotonic() - started, 2)
        log.info("model_ready", model=name, engine=self._engine.name, seconds=seconds)

    async def drain(self, patience: float) -> None:
        """Take no new session, and stop when the last one has ended, or after so many seconds of `patience`.

        No message of the protocol asks a bridge for that, so the node registers anew with no more slots than it
        has sessions, after each that ends. Without sessions, or without a bridge that could know, it stops now;
        so it does when this is called again.
        """
        if self._leaving is not None or not self._sessions or not self._link.up:
            await self.stop()
            return
        log.info("draining", sessions=len(self._sessions), seconds=patience)
        self._draining = True
        self._leaving = asyncio.create_task(self._leave(patience), name="leave")
        self._do(self._link.redial(), "register-anew")

    async def _leave(self, patience: float) -> None:
        await asyncio.sleep(patience)
        log.warning("drain_timed_out", sessions=len(self._sessions))
        self._do(self.stop(), "drained")

    async def stop(self) -> None:
        """End all sessions, say goodbye to the bridge, and let `run` return; takes at most two seconds."""
        if self._stopping:
            return
        self._stopping = True
        for task in (self._starting, self._leaving):
            if task is not None:
                task.cancel()
        log.info("stopping", sessions=len(self._sessions))
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                closing = [self._forget(session) for session in list(self._sessions)]
                for session, _ in closing:
                    self._link.send(SessionState(session, "closed"))
                await asyncio.gather(self._link.close(), *(peer.close() for _, peer in closing))
        except TimeoutError:
            log.warning("stop_timed_out")

    async def _shut_down(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        closing = [self._forget(session) for session in list(self._sessions)]
        pending = [peer.close() for _, peer in closing]
        await asyncio.gather(*pending, *self._background, return_exceptions=True)
        self._worker.stop()

    # --- the link ---

    def _register(self) -> Register:
        labels = {
            "model": self._worker.spec.describe(),
            UPDATES: True,
            "host": socket.gethostname(),
            "engine": self._engine.name,
            "python": platform.python_version(),
        }
        config = self._config
        return Register(
            RegisterPayload(
                credential=config.credential,
                node=config.node,
                pool=config.pool,
                capacity=config.slots if self._leaving is None else max(1, len(self._sessions)),
                sessions=list(self._sessions),
                labels=labels,
            )
        )

    def _on_registered(self, registered: Registered) -> None:
        """Go on where the last socket ended: what was not sent, then the state of every session."""
        self.epoch = registered.epoch
        log.info("registered", node=registered.node, epoch=registered.epoch, sessions=len(self._sessions))
        unsent, self._unsent = self._unsent, deque(maxlen=_MAX_UNSENT)
        for message in unsent:
            if message.session in self._sessions:
                self._link.send(message)
        for session, peer in self._sessions.items():
            if peer.media_up:
                self._link.send(SessionState(session, "connected"))
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        period = min(_MAX_HEARTBEAT, max(_MIN_HEARTBEAT, registered.heartbeat))
        self._heartbeat = asyncio.create_task(self._beat(period), name="heartbeat")
        self._end_if_drained()

    async def _beat(self, period: float) -> None:
        while self._link.up:
            connected = [session for session, peer in self._sessions.items() if peer.media_up]
            stats = {session: peer.stats() for session, peer in self._sessions.items()}
            busy = round(self._worker.busy_for(), 1)
            self._link.send(
                Heartbeat(
                    connected=connected,
                    load=round(self._worker.load(), 3),
                    stats={"sessions": stats, "model_busy": busy, "engine": self._engine.name},
                )
            )
            await asyncio.sleep(period)

    def _on_message(self, message: FromBridge) -> None:
        match message:
            case ToNodeOffer():
                self._on_offer(message)
            case ToNodeCandidate():
                peer = self._sessions.get(message.session)
                if peer is not None:
                    peer.candidate(message.candidate)
            case ToNodeUpdate():
                self._on_update(message)
            case SessionEnd():
                self._on_session_end(message)
            case Drain():
                log.info("draining", sessions=len(self._sessions))
                self._draining = True
                self._end_if_drained()
            case Registered():
                log.warning("bad_message_from_bridge", error="registered, again")

    def _on_offer(self, offer: ToNodeOffer) -> None:
        peer = self._sessions.get(offer.session)
        if peer is None:
            reason = self._refusal(offer.session)
            if reason:
                log.warning("offer_refused", session=offer.session, reason=reason)
                self._link.send(NodeError(offer.session, reason))
                return
            try:
                servers = _ice_servers(offer) or self._config.ice_servers
                peer = SessionPeer(offer.session, self._engine, self._worker, self, servers, offer.ice_transport_policy)
            except EngineError as error:
                self._link.send(NodeError(offer.session, str(error)))
                return
            self._sessions[offer.session] = peer
            log.info("session_opened", session=offer.session, sessions=len(self._sessions))
        peer.offer(offer.sdp, offer.params, _ice_servers(offer))

    def _on_update(self, asked: ToNodeUpdate) -> None:
        if (peer := self._sessions.get(asked.session)) is None:
            self._link.send(NodeUpdated(asked.session, error="the session has ended", id=asked.id))
            return
        try:
            self._send_or_keep(NodeUpdated(asked.session, dict(peer.update(asked.params)), id=asked.id))
        except ParamError as error:
            self._send_or_keep(NodeUpdated(asked.session, error=str(error), id=asked.id))

    def _refusal(self, session: str) -> str:
        """Why a new session is not taken, or ""."""
        if self._stopping:
            return "the node is stopping"
        if self._draining:
            return "the node is draining"
        if session in self._ended:
            return "the session has ended"
        if len(self._sessions) >= (self._config.slots or _MAX_SESSIONS):
            return "the node has no free slot"
        return ""

    def _on_session_end(self, message: SessionEnd) -> None:
        if message.session in self._sessions:
            self._finish(message.session, message.reason or "ended by the bridge")
        else:
            self._remember(message.session)

    # --- the sessions (Signaling) ---

    def answer(self, session: str, sdp: str) -> None:
        """Send an answer, or keep it until the link is up."""
        self._send_or_keep(NodeAnswer(session, raw(sdp)))

    def candidate(self, session: str, candidate: Mapping[str, Any] | None) -> None:
        """Send a candidate, or keep it until the link is up."""
        self._send_or_keep(NodeCandidate(session, raw(candidate)))

    def state(self, session: str, state: str) -> None:
        """Report a state; while the link is down it is not kept, since the next REGISTER tells it anew."""
        if session not in self._sessions:
            return
        wire = cast(Literal["connected", "disconnected", "failed", "closed"], state)
        self._link.send(SessionState(session, wire))
        log.info("session_state", session=session, state=state)
        if state in ("failed", "closed"):
            self._finish(session, state)

    def refused(self, session: str, message: str) -> None:
        """Tell the bridge that the session cannot be served."""
        if session in self._sessions:
            self._link.send(NodeError(session, message))
            self._finish(session, message)

    def _keep(self, messages: Sequence[Struct]) -> None:
        """Of what the last socket did not take, keep what the next one has to: states and heartbeats come anew."""
        kept = [each for each in messages if isinstance(each, NodeAnswer | NodeCandidate | NodeUpdated)]
        self._unsent.extendleft(reversed(kept))

    def _send_or_keep(self, message: NodeAnswer | NodeCandidate | NodeUpdated) -> None:
        if message.session in self._sessions and not self._link.send(cast("Struct", message)):
            self._unsent.append(message)

    def _forget(self, session: str) -> tuple[str, SessionPeer]:
        self._remember(session)
        return session, self._sessions.pop(session)

    def _remember(self, session: str) -> None:
        self._ended[session] = None
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    def _finish(self, session: str, reason: str) -> None:
        """Free the slot now and the memory in the background."""
        _, peer = self._forget(session)
        log.info("session_closed", session=session, reason=reason, **peer.stats())
        self._do(peer.close(), "session-close")
        if self._leaving is not None and self._sessions:
            self._do(self._link.redial(), "register-anew")
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._draining and not self._sessions and not self._stopping:
            self._do(self.stop(), "drained")

    def _do(self, what: Coroutine[Any, Any, None], name: str) -> None:
        """Do something in the background, to its end."""
        task = asyncio.create_task(what, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _ice_servers(offer: ToNodeOffer) -> list[IceServer]:
    return [
        IceServer(
            (server.urls,) if isinstance(server.urls, str) else tuple(server.urls),
            server.username or None,
            server.credential or None,
        )
        for server in offer.ice_servers[:_MAX_ICE_SERVERS]
    ]
