"""What stands in for event loop, timers, disk and cloud while a `Model` runs: all synchronous, and all data.

Fakes, each of them: they are here so that every order of events can be tried, and what they leave out (slow disks,
a crash between two awaits, times) is the part of `gateway.proof.world`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any, ClassVar, cast
from unittest.mock import patch

import structlog

from gateway.proof.cloud import Cloud
from gateway.proof.ledger import Disk, MemoryLedger
from rtcbridge.gateway import reconciler
from rtcbridge.gateway.timers import Lane, TimerWheel
from rtcbridge.ports import Launch, NodeRow, ProviderError, SessionRow


class Clock:
    """Stands still but for `_MOMENT`."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


class NoTimer:
    """A timer that never fires by itself."""

    def cancel(self) -> None:
        pass


class NoWheel:
    """Deadlines are events of the search, so nothing is scheduled."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> NoTimer:
        return NoTimer()

    def lane(self, delay: float, callback: Callable[[Any], object]) -> Lane:
        """The real thing, which this wheel never turns."""
        return Lane(cast(TimerWheel, self), _zero, delay, callback)


def _zero() -> float:
    return 0.0


class PromptLedger(MemoryLedger):
    """The fake ledger with a disk that is never late."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def save_node(self, row: NodeRow) -> None:
        self.disk.nodes[row.id] = row

    async def delete_node(self, node: str) -> None:
        self.disk.nodes.pop(node, None)

    def session_started(self, row: SessionRow) -> None:
        self.disk.sessions[row.id] = row

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        self.disk.sessions.pop(session, None)  # only the open ones matter here


class PromptProvider:
    """A fake provider whose next operation ends as it was told to."""

    list_interval = 1.0

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.outcome = "done"

    async def _do(self, operation: str, launch: Launch) -> None:
        failure = self.cloud.do(operation, launch.node) if self.outcome in ("done", "denied") else ""
        if self.outcome != "done" or failure:
            raise asyncio.CancelledError if self.outcome == "cancelled" else ProviderError(failure or "not today")

    async def create(self, launch: Launch) -> None:
        await self._do("create", launch)

    async def start(self, launch: Launch) -> None:
        await self._do("start", launch)

    async def stop(self, launch: Launch) -> None:
        await self._do("stop", launch)

    async def destroy(self, launch: Launch) -> None:
        await self._do("destroy", launch)

    async def list(self) -> Mapping[str, Any] | None:
        return self.cloud.view()

    async def close(self) -> None:
        pass


@dataclass(eq=False)
class Operation:
    """A call of the provider that has begun: the coroutine that makes it, as data."""

    method: str
    arguments: dict[str, Any]
    running: ClassVar["Operation | None"] = None
    begun: ClassVar[list["Operation"]] = []
    given_up: ClassVar[list["Operation"]] = []
    callbacks: list[Callable[["Operation"], object]] = field(default_factory=list)

    def add_done_callback(self, callback: Callable[["Operation"], object]) -> None:
        self.callbacks = [*self.callbacks, callback]

    def cancel(self) -> None:
        """The bridge gives it up."""
        self.given_up.append(self)


class _StopError(Exception):
    """Ends a coroutine that would go on for ever."""


def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine to its end; there is nothing that it could wait for."""
    try:
        coroutine.send(None)
    except (StopIteration, _StopError, asyncio.CancelledError):
        return
    raise AssertionError("it waits")


class _Asyncio(ModuleType):
    """What the reconciler calls `asyncio` while a model runs."""

    def __init__(self) -> None:
        super().__init__("asyncio")
        own = vars(type(self))
        self.__dict__.update({name: value for name, value in vars(asyncio).items() if name not in own})

    @staticmethod
    def create_task(coroutine: Coroutine[Any, Any, Any], name: str = "") -> Operation:
        arguments = dict(coroutine.cr_frame.f_locals)  # type: ignore[attr-defined]
        operation = Operation(coroutine.cr_code.co_name, arguments)  # type: ignore[attr-defined]
        coroutine.close()
        del arguments["self"]
        Operation.begun.append(operation)
        return operation

    @staticmethod
    def current_task() -> Operation | None:
        return Operation.running

    @staticmethod
    @asynccontextmanager
    async def timeout(delay: float | None) -> Any:
        yield

    @staticmethod
    async def sleep(delay: float) -> None:
        raise _StopError


@contextmanager
def no_event_loop(number: Callable[[], int]) -> Iterator[None]:
    """To be entered while models run. `number`: makes the next id."""
    before = structlog.get_config()
    with ExitStack() as stack:
        stack.enter_context(patch.object(reconciler, "asyncio", _Asyncio()))
        stack.enter_context(patch("secrets.token_hex", lambda size: f"{number():0{2 * size}x}"))
        ids = (f"{number():020x}" for _ in count())
        stack.enter_context(patch("rtcbridge.gateway.bridge._random", ids))
        stack.callback(structlog.configure, **before)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        yield
