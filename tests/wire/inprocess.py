"""The core alone as the world of a vector: exact, without sockets, and as fast as the clock is moved."""

from collections.abc import Callable
from typing import Any

from core.tiny import Limits, Peer
from core.tiny_extended import ExtendedBridge
from rtcbridge.conformance.replay import Ended, Frame, Operation
from rtcbridge.conformance.vectors import Limits as LimitValues
from rtcbridge.conformance.vectors import Vector
from rtcbridge.core.extension import SUBPROTOCOL
from rtcbridge.core.spec import PoolSpec, SessionSpec

_AN_INSTANT = 1e-6  # seconds


class InProcess:
    """A `World` without a network."""

    def __init__(self, vector: Vector, limits: LimitValues) -> None:
        pool = {name: value for name, value in vector.pool.items() if name != "provider"}
        spec = PoolSpec(name="pool", elastic=vector.scripted, **pool)
        session: dict[str, Any] = {
            name.removeprefix("sessions."): value for name, value in limits.items() if "sessions." in name
        }
        auth = session.pop("auth_timeout", 10.0)
        nodes: dict[str, Any] = {
            name.removeprefix("nodes."): value for name, value in limits.items() if "nodes." in name
        }
        self.bridge = ExtendedBridge(
            [spec],
            {"sk_client": "pool", "ek_client": "pool"},
            {"nk_node": "pool"},
            SessionSpec(**session),
            Limits(auth_timeout=auth, **nodes),
        )
        self.bridge.settle()
        self.values = {
            "client_key": "sk_client",
            "node_key": "nk_node",
            "revoked_key": "sk_revoked",
            "client_token": "ek_client",
            "pool": "pool",
        }
        self.peers: dict[str, Peer] = {}

    def node_id(self, actor: str) -> str:
        return actor

    def actors(self) -> list[str]:
        return list(self.peers)

    async def connect(self, actor: str, path: str, subprotocol: str) -> None:
        extended = subprotocol == SUBPROTOCOL
        connect = self.bridge.connect
        self.peers[actor] = self.bridge.connect_extended() if extended else connect(is_node=path == "/node")

    async def send(self, actor: str, frames: list[Frame]) -> None:
        for is_text, data in frames:
            if is_text:
                self.bridge.send(self.peers[actor], data)
            else:
                self.bridge.send_binary(self.peers[actor])

    async def receive(self, actor: str, after: float | None) -> bytes | Ended:
        if after is not None:
            self._until(after, lambda: self._here(actor))
        here = self._here(actor)
        assert here, "nothing came"
        peer = self.peers[actor]
        if peer.got:
            return peer.got.popleft()
        peer.closed = None
        peer.gone = True
        return here[0]

    async def waiting(self, actor: str) -> list[bytes | Ended]:
        return self._here(actor)

    def _here(self, actor: str) -> list[bytes | Ended]:
        peer = self.peers[actor]
        closed: list[bytes | Ended] = [Ended(*peer.closed)] if peer.closed else []
        return [*peer.got, *closed]

    def _until(self, seconds: float, here: Callable[[], list[Any]]) -> None:
        """Let time pass until something comes: at its end, and not before."""
        assert not here(), f"too early: {here()[:3]}"
        due = self.bridge.now + seconds
        while not here() and self.bridge.step(due + _AN_INSTANT):
            pass
        assert here(), "nothing came"
        assert self.bridge.now >= due - _AN_INSTANT, f"{due - self.bridge.now} s too early: {here()[:3]}"

    async def close(self, actor: str, code: int | None) -> None:
        self.bridge.quit(self.peers[actor], goodbye=True)

    async def drop(self, actor: str) -> None:
        self.bridge.quit(self.peers[actor], goodbye=False)

    async def let_pass(self, seconds: float) -> None:
        self.bridge.advance(seconds)

    async def operation(self, after: float | None) -> Operation:
        if after is not None:
            self._until(after, self._asked)
        asked = self._asked()
        assert asked, "the provider is not asked"
        asked[0].seen = True
        id = asked[0].node.id
        return Operation(asked[0].name, id, f"token-{id}", asked[0])

    def _asked(self) -> list[Any]:
        return [each for each in self.bridge.operations if not each.seen]

    async def answer(self, operation: Operation, accepted: bool) -> None:
        self.bridge.answer(operation.handle, accepted)

    async def no_operation(self) -> None:
        assert not self._asked(), self._asked()

    async def revoke(self, key: str) -> None:
        self.bridge.revoke(key)

    async def kill(self) -> None:
        self.peers.clear()

    async def start(self) -> None:
        self.bridge = self.bridge.restarted()
