"""A bridge that is somebody else's, as the world of vectors: nothing can be asked of it but what any peer may.

Whether something has had its consequences cannot be looked up here, as it can in our own bridges. A ping that comes
back says that one process has taken in what was sent before; the pause behind it is for others that it may tell.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rtcbridge.conformance.replay import Ended, Frame, MismatchError, Operation
from rtcbridge.conformance.sockets import Wire
from rtcbridge.conformance.vectors import as_json

_BEAT = 4.0  # seconds between a node's heartbeats, which are asked for every 5
_GOODBYE = 1000


@dataclass(frozen=True)
class Target:
    """The bridge, and how to speak to it.

    Args:
        url: its address without the endpoint, such as `wss://bridge.example`.
        values: what vectors name: `client_key`, `pool`, and if there are any `node_key`, `client_token`, `revoked_key`.
        tls: whom to trust, for wss://.
        timeout: seconds that an answer may take.
        pause: seconds within which what has happened at one socket shows at the others.
    """

    url: str
    values: Mapping[str, str]
    tls: ssl.SSLContext | None = None
    timeout: float = 5.0
    pause: float = 0.2


@dataclass
class _Actor:
    wire: Wire
    path: str
    has_spoken: bool = field(default=False)


class Foreign:
    """A `World`: the part that one vector has in somebody's bridge.

    Args:
        target: the bridge.
        name: what node ids begin with; no other world's does.
        patience: seconds, beyond what a vector says, that a deadline of the bridge may be away.
        beats: whether nodes send heartbeats on their own.
    """

    def __init__(self, target: Target, name: str, patience: float = 0.0, *, beats: bool = False) -> None:
        self.target = target
        self.values = dict(target.values)
        self._name = name
        self._patience = patience
        self._actors: dict[str, _Actor] = {}
        self._all: list[_Actor] = []
        self._since = time.monotonic()  # when the last step was done
        self._last = ""  # who has done something of which nobody has seen a consequence yet
        self._is_calm = True  # nothing was done since the last pause
        self._beating = asyncio.create_task(self._beat()) if beats else None

    # --- sockets ---

    def node_id(self, actor: str) -> str:
        """See `World`."""
        return f"{self._name}-{actor}"

    def actors(self) -> list[str]:
        """See `World`."""
        return [name for name, actor in self._actors.items() if not actor.wire.left]

    async def connect(self, actor: str, path: str, subprotocol: str) -> None:
        """See `World`."""
        await self._before(actor)
        wire = Wire(self.target.timeout, self.target.tls)
        self._actors[actor] = _Actor(wire, path)
        self._all.append(self._actors[actor])
        await wire.open(self.target.url + path, subprotocol)
        self._acts(actor)

    async def send(self, actor: str, frames: list[Frame]) -> None:
        """See `World`."""
        await self._before(actor)
        await self._actors[actor].wire.send(frames)
        self._actors[actor].has_spoken = True
        self._acts(actor)

    async def close(self, actor: str, code: int | None) -> None:
        """See `World`."""
        await self._before(actor)
        await self._actors[actor].wire.close(code)
        await self._noticed(actor)

    async def drop(self, actor: str) -> None:
        """See `World`."""
        await self._before(actor)
        self._actors[actor].wire.drop()
        await self._noticed(actor)

    async def receive(self, actor: str, after: float | None) -> bytes | Ended:
        """See `World`. Raises MismatchError if nothing comes."""
        patience = self.target.timeout + (0.0 if after is None else after + self._patience)
        got = await self._actors[actor].wire.next(patience)
        if got is None:
            raise MismatchError(f"nothing came within {patience:g} s")
        when, frame = got
        took = when - self._since
        if after is not None and took <= after / 2:
            raise MismatchError(f"it came after {took:.3f} s, not after {after:g} s")
        self._last, self._since = "", time.monotonic()  # it has been seen to have a consequence
        return frame

    async def waiting(self, actor: str) -> list[bytes | Ended]:
        """See `World`."""
        await self._calm()
        for each in self._actors.values():
            await each.wire.settled()
        return [frame for _, frame in self._actors[actor].wire.inbox]

    async def let_pass(self, seconds: float) -> None:
        """See `World`."""
        await asyncio.sleep(seconds)
        self._acts("")

    async def _before(self, actor: str) -> None:
        """What one has done has had its consequences, seen or not, before another does something."""
        if self._last not in ("", actor):
            await self._calm()

    async def _calm(self) -> None:
        if not self._is_calm:
            for each in self._actors.values():
                await each.wire.settled()
            await asyncio.sleep(self.target.pause)
        self._last, self._is_calm = "", True

    def _acts(self, actor: str) -> None:
        self._last, self._is_calm = actor, False
        self._since = time.monotonic()

    async def _noticed(self, actor: str) -> None:
        """Wait until the bridge has seen that a socket ended: two turns of its event loop later, and a pause."""
        probe = Wire(self.target.timeout, self.target.tls)
        await probe.open(f"{self.target.url}/client")
        for _ in range(2):
            await probe.settled()
        await probe.finish()
        self._is_calm = False
        await self._calm()
        self._acts(actor)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            for each in self._all:
                if each.path == "/node" and each.has_spoken and not each.wire.over:
                    with contextlib.suppress(TimeoutError):
                        await each.wire.send([(True, as_json({"type": "heartbeat"}))])

    async def finish(self) -> None:
        """Say goodbye at every socket, first as clients, so that the pool is as it was."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        for each in sorted(self._all, key=lambda actor: actor.path):
            if not each.wire.left and not each.wire.over:
                with contextlib.suppress(TimeoutError):
                    await each.wire.close(_GOODBYE)
            await each.wire.finish()
        await asyncio.sleep(self.target.pause)

    # --- what nobody can have done at somebody else's bridge: `Suite` leaves the vectors out that need it ---

    async def operation(self, after: float | None) -> Operation:
        """See `World`."""
        raise MismatchError("there is no provider here")

    async def answer(self, operation: Operation, accepted: bool) -> None:
        """See `World`."""
        raise MismatchError("there is no provider here")

    async def no_operation(self) -> None:
        """See `World`."""

    async def revoke(self, key: str) -> None:
        """See `World`."""
        raise MismatchError("no key can be revoked here")

    async def kill(self) -> None:
        """See `World`."""
        raise MismatchError("this bridge cannot be killed")

    async def start(self) -> None:
        """See `World`."""
        raise MismatchError("this bridge cannot be started")
