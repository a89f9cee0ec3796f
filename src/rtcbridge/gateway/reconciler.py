"""Makes what is what should be: performs the plan of each pool through its provider.

Level-triggered: every round compares the whole pool with its plan, so that a lost or doubled answer, or a crash
between any two steps, leads to the same end. An intent is stored before it is acted upon.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

import structlog

from rtcbridge.core import messages
from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.errors import CloseCode, TransitionError
from rtcbridge.core.machine import Machine, report
from rtcbridge.core.node import OPERATIONS, UP, Node, NodeEvent, NodeState, duration
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.ports import Launch, LedgerError, Provider, ProviderError

log = structlog.get_logger(__name__)

_LEDGER_PAUSE = 1.0  # seconds before a round is tried again whose intents could not be stored
_LEAST_SLEEP = 0.01  # seconds: a deadline may lie just behind what the clock shows
_LIST_TIMEOUT = 60.0  # seconds: without it, one lost answer would end the looking for good
_PLANS = 8  # at most, until nothing is left: the second stops the empty node that the first drained
_ENDING = frozenset({NodeState.STOPPING, NodeState.TERMINATING})
_ENDINGS = frozenset({OPERATIONS[state] for state in _ENDING})


@dataclass(slots=True)
class _Operation:
    """A call of the provider that is under way, or just about to begin."""

    name: str
    task: "asyncio.Task[None]"
    began: float = inf


class Reconciler:
    """Runs one task a pool.

    Args:
        bridge: The bridge.
        providers: The provider of each pool, by the pool's name.
        url: Where nodes dial in; it ends in `/node`.
    """

    def __init__(self, bridge: Bridge, providers: Mapping[str, Provider], url: str) -> None:
        self._bridge = bridge
        self._providers = providers
        self._url = url
        self._wakes = {name: asyncio.Event() for name in bridge.pools}
        self._dirty: dict[str, dict[str, Node]] = {name: {} for name in bridge.pools}
        self._tasks: list[asyncio.Task[None]] = []
        self._operations: dict[str, _Operation] = {}  # by node: one at a time
        self._breakers = dict.fromkeys(bridge.pools, (BreakerState.CLOSED, inf))  # as they were logged
        # Marks the ids of this bridge's own nodes, so that only those are swept.
        self._tag = hashlib.blake2b(bridge.auth.node_token("").encode(), digest_size=3).hexdigest()
        bridge.changed = self.wake

    def start(self) -> None:
        """Begin with every pool."""
        for pool in self._bridge.pools.values():
            self._tasks.append(asyncio.create_task(self._run(pool), name=f"pool {pool.spec.name}"))
            if pool.spec.elastic:
                self._tasks.append(asyncio.create_task(self._look(pool), name=f"machines {pool.spec.name}"))

    async def stop(self) -> None:
        """Stop; operations that are under way may end within a second, machines are left as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._operations:
            _, late = await asyncio.wait([each.task for each in self._operations.values()], timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def wake(self, pool: Pool) -> None:
        """Let a pool be looked at now."""
        self._wakes[pool.spec.name].set()

    def changed(self, pool: Pool, node: Node) -> None:
        """A node is to be written down, and its pool to be looked at."""
        self._dirty[pool.spec.name][node.id] = node
        self.wake(pool)

    # --- rounds ---

    async def _run(self, pool: Pool) -> None:
        wake = self._wakes[pool.spec.name]
        while True:
            pause = 0.0
            try:
                await self._round(pool)
            except LedgerError as error:
                log.error(
                    "cannot store what the pool is about to do; it waits",
                    pool=pool.spec.name,
                    error=str(error),
                )
                pause = _LEDGER_PAUSE
            except Exception:
                log.exception("a round of the pool failed", pool=pool.spec.name)
                pause = _LEDGER_PAUSE
            if pause:
                await asyncio.sleep(pause)
                continue
            now = self._bridge.clock()
            due = self._next_due(pool, now)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due == inf else max(_LEAST_SLEEP, due - now)):
                    await wake.wait()

    def _next_due(self, pool: Pool, now: float) -> float:
        """When a pool is to be looked at again though nothing wakes it."""
        return pool.next_due(now, self._bridge.silence)

    def _acts(self, pool: Pool) -> bool:
        """Whether this is who performs the plan of a pool."""
        return True

    async def _may(self, pool: Pool) -> bool:
        """Whether the provider may be asked for something now."""
        return True

    async def _round(self, pool: Pool, now: float | None = None) -> None:
        bridge = self._bridge
        now = bridge.clock() if now is None else now
        for link in [link for id in pool.nodes if (link := bridge.links.get(id)) is not None and link.overflown]:
            link.forget()
            self.tell(pool, pool.nodes[link.node], NodeEvent.SILENT)
        before = dict(pool.nodes)
        for id in pool.expire(now, bridge.silence):
            self._follow(pool, before[id])
        for _ in range(_PLANS):
            bridge.settle(pool)  # those who lost their node are back in line: they count for the plan
            if not (steps := pool.plan(now)):
                break
            for step in steps:
                self._take(pool, step, now)
        self._wakes[pool.spec.name].clear()  # all that woke it up so far has been looked at
        self._log_breaker(pool)
        await self._store(pool)
        for node, operation in pool.operations(bridge.clock()):
            node.busy = True
            task = asyncio.create_task(self._operate(pool, node, operation), name=f"{operation} {node.id}")
            self._operations[node.id] = _Operation(operation, task)
            task.add_done_callback(partial(self._over, pool, node))

    def _take(self, pool: Pool, step: Create | Step, now: float) -> None:
        if isinstance(step, Create):
            id = f"{pool.spec.name}-{self._tag}-{secrets.token_hex(4)}"
            node = Node(id, pool.spec, NodeState.PROVISIONING, now)
            self._bridge.add_node(pool, node)
            self._follow(pool, node)
        else:
            self.tell(pool, pool.nodes[step.node], step.event)

    def tell(self, pool: Pool, node: Node, event: NodeEvent) -> bool:
        """Let a node take an event, and do what its new state asks of the sockets; false if it came too late."""
        if pool.nodes.get(node.id) is not node:
            return False
        try:
            if pool.observe(node.id, event, self._bridge.clock()):
                self._follow(pool, node)
            else:
                self.changed(pool, node)
        except TransitionError as error:
            log.debug("an event came too late", error=str(error))
            return False
        return True

    def _follow(self, pool: Pool, node: Node) -> None:
        """A node has changed its state: log it, note it for the store, and let its link know."""
        say = log.warning if node.state is NodeState.FAILED else log.info
        say("node", node=node.id, state=node.state.value, **({"reason": node.reason} if node.reason else {}))
        self._dirty[pool.spec.name][node.id] = node
        self._tell_link(node)
        self._cancel(node)
        if node.state is NodeState.GONE:
            self._bridge.drop_node(node)
        self.wake(pool)

    def _tell_link(self, node: Node) -> None:
        """Let a node's socket know of its new state."""
        if (link := self._bridge.links.get(node.id)) is None:
            return
        if node.state is NodeState.DRAINING:
            link.send(messages.DRAIN)
        elif node.state not in UP:
            link.forget()
            link.cut(CloseCode.RESTART, "lost" if node.state is NodeState.LOST else node.state.value)
            node.linked = False

    def _cancel(self, node: Node) -> None:
        """Give up the operation under way if it is not wanted any more, or if its end is known already.

        A creation or a start is let finish unless the node is to be ended: it may have more to do.
        """
        running = self._operations.get(node.id)
        if running is None or OPERATIONS.get(node.state) == running.name:
            return
        if node.state in _ENDING or running.name in _ENDINGS:
            running.task.cancel()

    def _log_breaker(self, pool: Pool) -> None:
        """Say once what the breaker does."""
        breaker, now = pool.breaker, self._bridge.clock()
        if (breaker.state, breaker.until) == self._breakers[pool.spec.name]:
            return
        self._breakers[pool.spec.name] = breaker.state, breaker.until
        if breaker.state is BreakerState.OPEN:
            pause = round(breaker.until - now, 1)
            log.error("the provider keeps failing; a pause", pool=pool.spec.name, seconds=pause, reason=breaker.reason)
        elif breaker.state is BreakerState.HALF_OPEN:
            log.info("the provider may be tried again, with one node", pool=pool.spec.name)
        else:
            log.info("the provider works again", pool=pool.spec.name)

    async def _store(self, pool: Pool) -> None:
        """Write down every node that changed. Raises LedgerError; what was not written stays noted."""
        dirty = self._dirty[pool.spec.name]
        while dirty:
            id, node = next(iter(dirty.items()))
            del dirty[id]
            try:
                await self._bridge.save(node)
            except LedgerError:
                dirty.setdefault(id, node)
                raise

    # --- operations ---

    async def _operate(self, pool: Pool, node: Node, operation: str) -> None:
        """One call of the provider, bounded by the deadline of the node's state."""
        provider = self._providers[pool.spec.name]
        launch = Launch(node.id, pool.spec.name, self._url, self._bridge.auth.node_token(node.id))
        reason, self._operations[node.id].began = "", self._bridge.clock()
        try:
            if not await self._may(pool) or OPERATIONS.get(node.state) != operation:
                return  # its deadline passed while the intent was being stored
            async with asyncio.timeout(duration(node.state, pool.spec)):
                await getattr(provider, operation)(launch)
        except TimeoutError:
            reason = f"{operation}: no answer in time"
        except ProviderError as error:
            reason = str(error) if str(error).startswith(f"{operation}: ") else f"{operation}: {error}"
        except Exception as error:
            log.exception("the provider failed", pool=pool.spec.name, node=node.id, operation=operation)
            reason = f"{operation}: {type(error).__name__}"
        finally:
            self._over(pool, node, asyncio.current_task())
        if reason:
            log.warning("the provider refused", node=node.id, operation=operation, reason=reason)
        if OPERATIONS.get(node.state) == operation:  # else the node has moved on, and the answer says nothing
            node.reason = reason or node.reason
            self.tell(pool, node, NodeEvent.REFUSED if reason else NodeEvent.ACCEPTED)
        self._log_breaker(pool)
        self._bridge.settle(pool)

    def _over(self, pool: Pool, node: Node, task: asyncio.Task[None] | None) -> None:
        """An operation is over. Called twice, since one that is cancelled before it began runs no code of its own."""
        running = self._operations.get(node.id)
        if running is not None and running.task is task:
            del self._operations[node.id]
            node.busy = False
            self.wake(pool)

    # --- machines ---

    async def _look(self, pool: Pool) -> None:
        """Compare the nodes with the provider's list of machines, again and again."""
        provider = self._providers[pool.spec.name]
        while True:
            if not self._acts(pool):
                await asyncio.sleep(_LEDGER_PAUSE)
                continue
            asked = self._bridge.clock()
            known = set(pool.nodes)
            seen = {id: node.state for id, node in pool.nodes.items() if node.managed}
            try:
                async with asyncio.timeout(_LIST_TIMEOUT):
                    machines = await provider.list()
            except TimeoutError:
                log.warning("the provider's list did not come in time", pool=pool.spec.name)
            except ProviderError as error:
                log.warning("the provider cannot list its machines", pool=pool.spec.name, error=str(error))
            except Exception:
                log.exception("the provider's list failed", pool=pool.spec.name)
            else:
                if machines is None:
                    return
                for id, state in seen.items():
                    node = pool.nodes.get(id)
                    if node is not None and node.state is state and node.since < asked:
                        self._compare(pool, node, machines.get(id), asked)
                self._sweep(pool, machines.keys() - known)
                self._bridge.settle(pool)
            await asyncio.sleep(provider.list_interval)

    def _compare(self, pool: Pool, node: Node, machine: Machine | None, asked: float) -> None:
        """Take in what the list says of a node that has not changed since it was asked for."""
        running = self._operations.get(node.id)
        if running is not None and (OPERATIONS.get(node.state) != running.name or running.began >= asked):
            return  # of an earlier state, or newer than the list: what it does, the list may not show
        if event := report(node, machine):
            self.tell(pool, node, event)

    def _sweep(self, pool: Pool, unknown: Iterable[str]) -> None:
        """Destroy machines of ours that no node stands for any more."""
        for id in sorted(unknown):
            if id.startswith(f"{pool.spec.name}-{self._tag}-") and id not in pool.nodes:
                log.warning("a machine that no node stands for is destroyed", node=id)
                node = Node(id, pool.spec, NodeState.TERMINATING, self._bridge.clock())
                self._bridge.add_node(pool, node)
                self._follow(pool, node)
