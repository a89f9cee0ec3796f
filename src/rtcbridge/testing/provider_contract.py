"""One contract over every provider that makes machines. A test module gives it real machines of its kind.

    class TestMine(Contract, ListContract):
        @pytest.fixture
        def machines(self, tmp_path):
            return MyMachines(tmp_path)

The "machine" notes its environment and each boot in the folder that it shares with the test, and lives until
it is told to end. It needs pytest with pytest-asyncio in its mode `auto`.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from rtcbridge.ports import Launch, Machine, Provider, ProviderError


def launch(node: str = "node-1", url: str = "ws://127.0.0.1:9/node") -> Launch:
    """Return what a node of the pool `pool` must know."""
    return Launch(node, "pool", url, f"nk_secret_of_{node}")


async def until(true: Callable[[], object]) -> None:
    """Wait for what another process does. Raises TimeoutError after 15 seconds."""
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


class Machines(Protocol):
    """The machines of one kind, seen from outside of their provider."""

    folder: Path

    def make(self) -> Provider:
        """Make a provider anew, as a bridge that is started again would."""
        ...

    def boots(self, node: str = "node-1") -> int:
        """How often this node's machine has booted."""
        ...

    def running(self, node: str = "node-1") -> int:
        """How many machines of this node run."""
        ...


def _count_is(machines: Machines, running: int, boots: int | None = None) -> bool:
    return machines.running() == running and boots in (None, machines.boots())


class Contract:
    """Give a subclass the fixture `machines`."""

    async def test_a_machine_is_made_with_what_it_must_know(self, machines: Machines) -> None:
        """It finds all four of `Launch.env()` in its environment, and outlives its provider."""
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        lines = (machines.folder / "node-1.env").read_text().splitlines()
        assert {
            "RTCBRIDGE_NODE=node-1",
            "RTCBRIDGE_POOL=pool",
            "RTCBRIDGE_URL=ws://127.0.0.1:9/node",
            "RTCBRIDGE_NODE_TOKEN=nk_secret_of_node-1",
        } <= set(lines)
        assert machines.boots() == 1
        await provider.close()
        assert machines.running() == 1

    async def test_every_operation_may_be_repeated(self, machines: Machines) -> None:
        """The bridge repeats what it does not know the end of."""
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        await provider.create(launch())
        await provider.stop(launch())
        await until(lambda: not machines.running())
        await provider.stop(launch())
        assert machines.boots() == 1
        await provider.start(launch())
        await until(machines.running)
        await provider.start(launch())
        await provider.create(launch())
        assert machines.boots() == 2
        await provider.destroy(launch())
        await until(lambda: not machines.running())
        await provider.destroy(launch())
        assert machines.boots() == 2
        await provider.close()

    async def test_a_provider_made_anew_goes_on_where_another_left_off(self, machines: Machines) -> None:
        """Nothing that matters is in the memory of the provider: the bridge may be killed."""
        for operation, runs in (("create", 1), ("create", 1), ("stop", 0), ("start", 1), ("destroy", 0)):
            provider = machines.make()
            await getattr(provider, operation)(launch())
            await until(partial(_count_is, machines, runs))
            await provider.close()
        assert machines.boots() == 2

    async def test_a_destroyed_node_may_be_made_again(self, machines: Machines) -> None:
        """An id may come back."""
        provider = machines.make()
        for number in (1, 2):
            await provider.create(launch())
            await until(partial(_count_is, machines, 1, number))
            await provider.destroy(launch())
            await until(lambda: not machines.running())
        await provider.close()

    async def test_what_is_not_there_is_not_started_and_destroyed_without_a_word(self, machines: Machines) -> None:
        """A refusal is one line, which says that there is none, without secrets."""
        provider = machines.make()
        for operation in (provider.start, provider.stop):
            with pytest.raises(ProviderError, match=r"no .*(machine|node)") as caught:
                await operation(launch())
            assert "\n" not in str(caught.value)
            assert "nk_secret" not in str(caught.value)
        await provider.destroy(launch())
        await provider.close()

    async def test_many_nodes_at_once(self, machines: Machines) -> None:
        """One operation a node runs at a time, but of many nodes at once."""
        provider = machines.make()
        nodes = [f"node-{number}" for number in range(6)]
        await asyncio.gather(*(provider.create(launch(node)) for node in nodes))
        await until(lambda: all(machines.running(node) for node in nodes))
        await asyncio.gather(*(provider.destroy(launch(node)) for node in nodes))
        await until(lambda: not any(machines.running(node) for node in nodes))
        assert [machines.boots(node) for node in nodes] == [1] * 6
        await provider.close()

    @pytest.mark.parametrize("after", [0, 0.03, 0.1])
    async def test_a_cancelled_creation_can_be_repeated_or_undone(self, machines: Machines, after: float) -> None:
        """A deadline cancels a call at any point."""
        provider = machines.make()
        creating = asyncio.create_task(provider.create(launch()))
        await asyncio.sleep(after)
        creating.cancel()
        await asyncio.wait([creating])
        # A cancelled operation has an unknown end, so the bridge repeats it.
        await provider.create(launch())
        await provider.destroy(launch())
        await until(lambda: not machines.running())
        assert machines.boots() <= 2
        await provider.close()


class ListContract:
    """The same for providers that can list their machines."""

    async def test_what_runs_and_what_does_not_is_listed(self, machines: Machines) -> None:
        """What was accepted shows at once: a machine that was made is there, one that was stopped runs no more."""
        provider = machines.make()
        assert await runs(provider) == {}
        await provider.create(launch("a"))
        await provider.create(launch("b"))
        assert await runs(provider) == {"a": True, "b": True}
        await provider.stop(launch("a"))
        again = machines.make()
        assert await runs(again) == {"a": False, "b": True}
        await again.close()
        await provider.start(launch("a"))
        assert await runs(provider) == {"a": True, "b": True}
        await provider.destroy(launch("b"))
        assert await runs(provider) == {"a": True}
        await provider.destroy(launch("a"))
        assert await runs(provider) == {}
        await provider.close()


async def runs(provider: Provider) -> dict[str, bool]:
    """The list, in short: whether each machine runs or is about to, or else has stopped or is about to."""
    listed = await provider.list()
    assert listed is not None
    assert set(listed.values()) <= {Machine.COMING, Machine.RUNNING, Machine.STOPPING, Machine.STOPPED}
    return {node: machine in (Machine.COMING, Machine.RUNNING) for node, machine in listed.items()}
