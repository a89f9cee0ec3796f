"""A fake ledger: what is durable, what a crash loses, and a disk that fails or is slow on command."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rtcbridge.ports import LedgerError, NodeRow, SessionRow

GATHER = 0.05  # seconds that sessions are gathered, as in the real one


@dataclass
class Disk:
    """What outlives the bridge. `slow`: nothing is written until it is told; `failing`: nothing at all."""

    nodes: dict[str, NodeRow] = field(default_factory=dict)
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    starts: dict[str, list[str]] = field(default_factory=dict)  # the nodes on which a session was said to begin
    ends: Counter[str] = field(default_factory=Counter)  # how often an end was recorded, a life of the bridge
    slow: bool = False
    failing: bool = False


class _Batch:
    """What waits to be written: all of it, or after a crash nothing."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRow | None] = {}
        self.starts: dict[str, SessionRow] = {}
        self.ends: dict[str, tuple[float, str]] = {}
        self.waiters: list[asyncio.Future[None]] = []

    def is_empty(self) -> bool:
        return not (self.nodes or self.starts or self.ends or self.waiters)


class MemoryLedger:
    """A fake `Ledger` over a `Disk`, with the guarantees and the batches of `SessionLedger`, and no thread."""

    def __init__(self, disk: Disk, loop: asyncio.AbstractEventLoop) -> None:
        self.disk = disk
        self._loop = loop
        self._batch = _Batch()
        self._timer: asyncio.TimerHandle | None = None
        disk.ends.clear()

    # --- writing ---

    async def save_node(self, row: NodeRow) -> None:
        self._batch.nodes[row.id] = row
        await self._written()

    async def delete_node(self, node: str) -> None:
        self._batch.nodes[node] = None
        await self._written()

    def session_started(self, row: SessionRow) -> None:
        self.disk.starts.setdefault(row.id, []).append(row.node)
        self._batch.starts[row.id] = row
        self._wake(GATHER)

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        self.disk.ends[session] += 1
        self._batch.ends.setdefault(session, (ended, reason))
        self._wake(GATHER)

    async def flush(self) -> None:
        await self._written()

    async def close(self) -> None:
        await self.flush()

    async def _written(self) -> None:
        waiter = self._loop.create_future()
        self._batch.waiters.append(waiter)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake(0.0)
        await waiter

    def _wake(self, delay: float) -> None:
        if self._timer is None and not self.disk.slow:
            self._timer = self._loop.call_later(delay, self.write)

    @property
    def pending(self) -> bool:
        """Whether something is not durable yet."""
        return not self._batch.is_empty()

    def write(self, answer: bool = True) -> None:
        """The disk does its work, or fails. Without `answer` the bridge never learns of it: it is about to die."""
        self._timer = None
        if self._batch.is_empty():
            return
        batch, self._batch = self._batch, _Batch()
        waiters = [waiter for waiter in batch.waiters if not waiter.done()]
        if self.disk.failing:
            self._batch.starts, self._batch.ends = batch.starts, batch.ends
            for waiter in waiters:
                waiter.set_exception(LedgerError("the disk fails"))
            return
        self._apply(batch)
        if answer:
            for waiter in waiters:
                waiter.set_result(None)

    def _apply(self, batch: _Batch) -> None:
        disk = self.disk
        for node, row in batch.nodes.items():
            if row is None:
                disk.nodes.pop(node, None)
            else:
                disk.nodes[node] = row
        for id, start in batch.starts.items():
            old = disk.sessions.get(id)
            disk.sessions[id] = start if old is None else msgspec.structs.replace(old, pool=start.pool, node=start.node)
        for id, (at, why) in batch.ends.items():
            if (known := disk.sessions.get(id)) and known.ended is None:
                disk.sessions[id] = msgspec.structs.replace(known, ended=at, reason=why)

    # --- reading ---

    def nodes(self) -> Sequence[NodeRow]:
        return [self.disk.nodes[id] for id in sorted(self.disk.nodes)]

    def take_nodes(self, pool: str, fence: int) -> Sequence[NodeRow]:
        return [row for row in self.nodes() if row.pool == pool]

    def open_among(self, names: Collection[str]) -> Mapping[str, SessionRow]:
        return {row.id: row for row in self.open_sessions() if row.id in names}

    def whole_among(self, names: Collection[str]) -> Collection[str]:
        return [name for name in names if (row := self.disk.sessions.get(name)) and row.ended is not None]

    def recorded_among(self, names: Collection[str]) -> Collection[str]:
        return [name for name in names if name in self.disk.sessions]

    def open_sessions(self) -> Sequence[SessionRow]:
        open_ones = [row for row in self.disk.sessions.values() if row.ended is None]
        return sorted(open_ones, key=lambda row: row.started)

    def sessions(self, limit: int = 100) -> Sequence[SessionRow]:
        return sorted(self.disk.sessions.values(), key=lambda row: -row.started)[:limit]
