"""A bridge with real nodes somewhere, a viewer with real video, and what every provider's whole life must show."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from gateway.programs import Home, Program, until
from node.clients import WrtcClient
from rtcbridge.testing import FakeClient, Message

T = TypeVar("T")
FULL = "Maximum pool size reached. Cannot assign a new node."


class Machines(Protocol):
    """The machines of one provider, seen from outside of it. Nodes go by their ids."""

    def there(self) -> list[str]:
        """Return the node of every machine that there is, running or not; twice, if there are two of it."""
        ...

    def running(self) -> list[str]:
        """Return the node of every agent that runs."""
        ...


class Site:
    """A bridge whose one pool has its nodes on `machines`."""

    def __init__(self, place: Home, machines: Machines, **env: str) -> None:
        self.place = place
        self.machines = machines
        self.key = place.client_key()
        self._env = env

    def serve(self) -> Program:
        return self.place.serve(**self._env)

    def client(self) -> FakeClient:
        client = FakeClient(self.place.url, self.key)
        client.patience = 60.0  # an agent with libwebrtc takes seconds to start on a busy machine
        return client

    async def until(self, condition: Callable[[], T], what: str) -> T:
        return await asyncio.to_thread(until, condition, what, 60.0)

    async def in_state(self, node: str, *states: str) -> None:
        """Wait until the node is in one of these states; "gone" when the store has forgotten it."""

        def now() -> bool:
            row = self.place.nodes().get(node)
            return (row.state if row else "gone") in states

        await self.until(now, f"{node} is {' or '.join(states)}")

    async def event(self, bridge: Program, event: str, **fields: Any) -> Message:
        return await asyncio.to_thread(lambda: bridge.event(event, **fields))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[WrtcClient]:
        """Ask for a node, wait for it, send video, and give it when it comes back. The place in line is kept."""
        async with self.client() as socket:
            camera = WrtcClient()
            try:
                await socket.send("session_start")
                await socket.expect("node_status", status="waiting")
                await socket.send("offer", sdp=await camera.offer())
                relay = asyncio.create_task(_candidates(socket, camera))
                await camera.accept((await socket.expect("answer"))["sdp"])
                try:
                    await _remote(socket, camera)
                    yield camera
                finally:
                    relay.cancel()
                    await asyncio.gather(relay, return_exceptions=True)
            finally:
                await camera.close()


async def _candidates(socket: FakeClient, camera: WrtcClient) -> None:
    while True:
        await socket.send("candidate", candidate=await camera.candidates.get())


async def _remote(socket: FakeClient, camera: WrtcClient) -> None:
    """Take the node's candidates until the video is back."""

    async def take() -> None:
        while True:
            await camera.add((await socket.expect("candidate"))["candidate"])

    taking = asyncio.create_task(take())
    try:
        await camera.until_luma(45, 75)
    finally:
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking


def config(pool: str, options: str) -> str:
    """The configuration of a bridge with one such pool, hastened."""
    return f"""
[sessions]
resume_grace = 30.0
[nodes]
heartbeat = 0.5
missed = 10
[[pools]]
max_nodes = 2
idle_timeout = 1.0
failed_timeout = 0.5
{pool}
{options}
"""


class Life:
    """Give a subclass the fixture `site`."""

    async def test_from_demand_to_destruction_with_the_bridge_killed_on_the_way(self, site: Site) -> None:
        machines = site.machines
        bridge = site.serve()
        assert machines.there() == []
        async with site.watching() as camera:
            (node,) = machines.there()
            assert machines.running() == [node]
            epoch = site.place.nodes()[node].epoch
            assert site.place.nodes()[node].state == "ready"
            await site.until(site.place.sessions, "the session is in the store, within a tenth of a second")
            bridge.kill()  # media goes on without it
            await camera.until_more(10)
            bridge = site.serve()
            registered = await site.event(bridge, "node registered", node=node)
            assert registered["epoch"] == epoch + 1
            await camera.until_more(10)
            assert machines.there() == machines.running() == [node]
        await site.in_state(node, "stopping", "stopped")
        bridge.kill()
        bridge = site.serve()
        await site.in_state(node, "stopped")
        await site.until(lambda: not machines.running(), "the agent has ended")
        assert machines.there() == [node]

        async with site.client() as client:
            await client.send("session_start")
            await site.in_state(node, "starting", "booting", "ready")
            bridge.kill()
        bridge = site.serve()
        async with site.watching():
            assert machines.there() == machines.running() == [node]
            assert list(site.place.nodes()) == [node]
        await site.in_state(node, "stopped")

        assert bridge.end() == 0
        assert machines.there() == [node]
        self.shorten(site.place)
        bridge = site.serve()
        await site.in_state(node, "terminating", "gone")
        bridge.kill()
        site.serve()
        await site.in_state(node, "gone")
        assert machines.there() == machines.running() == []

    async def test_killed_again_and_again_while_machines_are_made(self, site: Site) -> None:
        machines = site.machines
        text = site.place.file.read_text()
        site.place.file.write_text(text.replace("max_nodes = 2", "max_nodes = 2\nmin_ready = 2"))
        for moment in (lambda: site.place.nodes(), machines.there, machines.running):
            bridge = site.serve()
            await site.until(moment, "the next moment to be killed at")
            bridge.kill()
        site.serve()

        def settled() -> bool:
            nodes = site.place.nodes()
            return len(nodes) == 2 and all(row.state == "ready" for row in nodes.values())

        await site.until(settled, "two nodes are ready")
        nodes = sorted(site.place.nodes())
        await site.until(lambda: sorted(machines.there()) == nodes, "nothing else is there")
        assert sorted(machines.running()) == nodes

    @staticmethod
    def shorten(place: Home) -> None:
        """Let what is stopped be destroyed soon."""
        text = place.file.read_text()
        place.file.write_text(text.replace("failed_timeout", "stopped_timeout = 0.5\nfailed_timeout"))
