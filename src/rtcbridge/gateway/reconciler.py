"""Makes what is what should be: performs the plan of each pool through its provider.

Level-triggered: every round compares the whole pool with its plan, so that a lost or doubled answer, or a crash
between any two steps, leads to the same end. An intent is stored before it is acted upon.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from contextlib import suppress
from math import inf

import structlog

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, TransitionError
from rtcbridge.core.node import OPERATIONS, UP, Node, NodeEvent, NodeState, duration
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.ports import Launch, LedgerError, Provider, ProviderError

log = structlog.get_logger(__name__)

_LEDGER_PAUSE = 1.0  # seconds before a round is tried again whose intents could not be stored
_LEAST_SLEEP = 0.01  # seconds: a deadline may lie just behind what the clock shows
_LIST_TIMEOUT = 60.0  # seconds: without it, one lost answer would end the looking for good
_PLANS = 8  # at most, until nothing is left: the second stops the empty node that the first drained
_COMING_BACK = frozenset({NodeState.BOOTING, NodeState.READY, NodeState.LOST, NodeState.DRAINING})


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
        self._operations: set[asyncio.Task[None]] = set()
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
            _, late = await asyncio.wait(self._operations, timeout=1.0)
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
            due = pool.next_due(now, self._bridge.silence)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due == inf else max(_LEAST_SLEEP, due - now)):
                    await wake.wait()

    async def _round(self, pool: Pool) -> None:
        bridge = self._bridge
        now = bridge.clock()
        for node in [node for id, node in pool.nodes.items() if bridge.links[id].overflown]:
            bridge.links[node.id].forget()
            self._tell(pool, node, NodeEvent.SILENT, now)
        before = dict(pool.nodes)
        for id in pool.expire(now, bridge.silence):
            self._follow(pool, before[id])
        for _ in range(_PLANS):
            bridge.settle(pool)  # those who lost their node are back in line: they count for the plan
            steps = pool.plan(now)
            for step in steps:
                self._take(pool, step, now)
            if not steps:
                self._wakes[pool.spec.name].clear()  # all that woke it up so far has been looked at
                break
        await self._store(pool)
        for node, operation in pool.operations(bridge.clock()):
            node.busy = True
            task = asyncio.create_task(self._operate(pool, node, operation), name=f"{operation} {node.id}")
            self._operations.add(task)
            task.add_done_callback(self._operations.discard)

    def _take(self, pool: Pool, step: Create | Step, now: float) -> None:
        if isinstance(step, Create):
            id = f"{pool.spec.name}-{self._tag}-{secrets.token_hex(4)}"
            node = Node(id, pool.spec, NodeState.PROVISIONING, now)
            self._bridge.add_node(pool, node)
            self._follow(pool, node)
        else:
            self._tell(pool, pool.nodes[step.node], step.event, now)

    def _tell(self, pool: Pool, node: Node, event: NodeEvent, now: float) -> None:
        """Let a node take an event, and do what its new state asks of the sockets."""
        try:
            if pool.nodes.get(node.id) is node and pool.observe(node.id, event, now):
                self._follow(pool, node)
        except TransitionError as error:
            log.debug("an event came too late", error=str(error))

    def _follow(self, pool: Pool, node: Node) -> None:
        """A node has changed its state: log it, note it for the store, and let its link know."""
        link = self._bridge.links.get(node.id)
        say = log.warning if node.state is NodeState.FAILED else log.info
        say("node", node=node.id, state=node.state.value, **({"reason": node.reason} if node.reason else {}))
        self._dirty[pool.spec.name][node.id] = node
        if link is not None:
            if node.state is NodeState.DRAINING:
                link.send(messages.DRAIN)
            elif node.state not in UP:
                link.forget()
                link.cut(CloseCode.RESTART, "lost" if node.state is NodeState.LOST else node.state.value)
                node.linked = False
        if node.state is NodeState.GONE:
            self._bridge.drop_node(node)
        self.wake(pool)

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
        state = node.state
        provider = self._providers[pool.spec.name]
        launch = Launch(node.id, pool.spec.name, self._url, self._bridge.auth.node_token(node.id))
        event = NodeEvent.REFUSED
        try:
            if OPERATIONS.get(state) != operation:
                return  # its deadline passed while the intent was being stored
            async with asyncio.timeout(duration(state, pool.spec)):
                await getattr(provider, operation)(launch)
            event = NodeEvent.ACCEPTED
        except TimeoutError:
            node.reason = f"{operation}: no answer in time"
        except ProviderError as error:
            node.reason = f"{operation}: {error}"
        except Exception as error:
            log.exception("the provider failed", pool=pool.spec.name, node=node.id, operation=operation)
            node.reason = f"{operation}: {type(error).__name__}"
        finally:
            node.busy = False
            self.wake(pool)
        if event is NodeEvent.REFUSED:
            log.warning("the provider refused", node=node.id, operation=operation, reason=node.reason)
        if OPERATIONS.get(node.state) == operation:  # else the node has moved on, and the answer says nothing
            self._tell(pool, node, event, self._bridge.clock())
        self._bridge.settle(pool)

    # --- machines ---

    async def _look(self, pool: Pool) -> None:
        """Compare the nodes with the provider's list of machines, again and again."""
        provider = self._providers[pool.spec.name]
        while True:
            asked = self._bridge.clock()
            quiet = {id: node.state for id, node in pool.nodes.items() if node.managed and not node.busy}
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
                for id, state in quiet.items():
                    node = pool.nodes.get(id)
                    if node is not None and not node.busy and node.state is state and node.since < asked:
                        self._compare(pool, node, machines.get(id))
                self._sweep(pool, machines)
                self._bridge.settle(pool)
            await asyncio.sleep(provider.list_interval)

    def _compare(self, pool: Pool, node: Node, running: bool | None) -> None:
        """Take in what the provider says of one node: running, stopped, or (None) not there."""
        now = self._bridge.clock()
        if node.state is NodeState.PROVISIONING:
            if running is None:
                node.uncertain = False  # it was never made, so it may be made now
                self.wake(pool)
            else:
                self._tell(pool, node, NodeEvent.ACCEPTED, now)
        elif running is None:
            if node.state not in (NodeState.FAILED, NodeState.STARTING):
                self._halt(pool, node, NodeEvent.VANISHED, now)
        elif not running and node.state in _COMING_BACK:
            self._halt(pool, node, NodeEvent.HALTED, now)

    def _halt(self, pool: Pool, node: Node, event: NodeEvent, now: float) -> None:
        if node.state in (NodeState.BOOTING, NodeState.READY):
            node.reason = "its machine has stopped" if event is NodeEvent.HALTED else "its machine has gone"
        self._tell(pool, node, event, now)
        if node.state is NodeState.LOST:
            # The machine itself is known to be down: no need to wait for it to come back.
            self._tell(pool, node, event, now)

    def _sweep(self, pool: Pool, machines: Mapping[str, bool]) -> None:
        """Destroy machines of ours that no node stands for any more."""
        for id in machines:
            if id.startswith(f"{pool.spec.name}-{self._tag}-") and id not in pool.nodes:
                log.warning("a machine that no node stands for is destroyed", node=id)
                node = Node(id, pool.spec, NodeState.TERMINATING, self._bridge.clock())
                self._bridge.add_node(pool, node)
                self._follow(pool, node)
