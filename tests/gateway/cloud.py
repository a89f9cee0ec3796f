"""A cloud of the tests' own, for what no real one does on demand: it loses answers, lies, and acts by itself."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.bridges import Running, running
from rtcbridge.config import Nodes, Pool
from rtcbridge.core.node import Node
from rtcbridge.ports import Launch, Machine, NodeRow, ProviderError
from rtcbridge.testing import FakeNode

AFTER = {"create": Machine.RUNNING, "start": Machine.RUNNING, "stop": Machine.STOPPED, "destroy": None}


class FakeCloud:
    """A `Provider` without machines: a fake. It keeps to the contract, unless `faults` says otherwise.

    Attributes:
        machines: how each stands; the test may change it, as a cloud does behind the bridge's back.
        faults: for the next calls of an operation, in order: "refuse" (nothing is done), "lose" (it is done, and
            fails), "hang" (it is done, and no answer comes), "wait" (nothing is done until `released` is set).
        calls: the operations and their nodes, in order.
        under_way: the most operations at once on one node.
    """

    list_interval = 0.02

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.calls: list[tuple[str, str]] = []
        self.released = asyncio.Event()
        self.listing = True
        self.lists = 0
        self.under_way = 0
        self._busy: dict[str, int] = defaultdict(int)

    async def create(self, launch: Launch) -> None:
        await self._do("create", launch)

    async def start(self, launch: Launch) -> None:
        await self._do("start", launch)

    async def stop(self, launch: Launch) -> None:
        await self._do("stop", launch)

    async def destroy(self, launch: Launch) -> None:
        await self._do("destroy", launch)

    async def list(self) -> Mapping[str, Machine] | None:
        if not self.listing:
            raise ProviderError("list: not now")
        self.lists += 1
        return dict(self.machines)

    async def close(self) -> None:
        pass

    async def _do(self, verb: str, launch: Launch) -> None:
        self.calls.append((verb, launch.node))
        self._busy[launch.node] += 1
        self.under_way = max(self.under_way, self._busy[launch.node])
        try:
            fault = self.faults[verb].pop(0) if self.faults[verb] else ""
            if fault == "refuse":
                raise ProviderError("not today")
            if fault == "wait":
                await self.released.wait()
            if verb in ("start", "stop") and launch.node not in self.machines:
                raise ProviderError("there is no machine")
            if (after := AFTER[verb]) is None:
                self.machines.pop(launch.node, None)
            elif after is Machine.STOPPED or self.machines.get(launch.node) is not Machine.LEAVING:
                self.machines[launch.node] = after
            if fault == "lose":
                raise ProviderError("connection reset by peer")
            if fault == "hang":
                await asyncio.Event().wait()
        finally:
            self._busy[launch.node] -= 1

    def count(self, verb: str) -> int:
        return sum(each == verb for each, _ in self.calls)


@asynccontextmanager
async def bridge_on(folder: Path, cloud: FakeCloud, **pool: Any) -> AsyncIterator[Running]:
    """Run a bridge with one pool of this cloud's machines."""
    given = {"provider": "command", "max_nodes": 1, "idle_timeout": 600.0, "failed_timeout": 60.0}
    pools, beats = (Pool(**given | pool),), Nodes(heartbeat=0.1, missed=5)
    async with running(folder, providers={"default": cloud}, pools=pools, nodes=beats) as bridge:
        yield bridge


async def until(true: Callable[[], object], what: str) -> None:
    """Wait for what the bridge does; it gives no notice of it."""
    try:
        async with asyncio.timeout(15):
            while not true():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not in 15 s") from None


async def looked(cloud: FakeCloud) -> None:
    """Wait until the bridge has taken in what the cloud says now."""
    seen = cloud.lists
    await until(lambda: cloud.lists >= seen + 3, "the list is read")


def nodes(bridge: Running) -> dict[str, Node]:
    return bridge.server.bridge.pools["default"].nodes


def states(bridge: Running) -> list[str]:
    return sorted(node.state.value for node in nodes(bridge).values())


def stored(bridge: Running) -> dict[str, NodeRow]:
    return {row.id: row for row in bridge.server.bridge.ledger.nodes()}


def agent(bridge: Running, id: str) -> FakeNode:
    """The agent of a machine that the cloud made."""
    return FakeNode(bridge.url, bridge.server.bridge.auth.node_token(id), node=id)


async def one(bridge: Running, state: str) -> str:
    """Wait for the only node to be in a state; return its id."""
    await until(lambda: states(bridge) == [state], f"a node that is {state}")
    return next(iter(nodes(bridge)))


async def gone(bridge: Running) -> None:
    await until(lambda: not nodes(bridge), "no node")
