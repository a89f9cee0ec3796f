"""What the admin API shows of pools, nodes and sessions. Times are Unix seconds, durations are seconds."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


class BridgeView(Struct, frozen=True, kw_only=True):
    """The bridge itself, in sums."""

    version: str
    started: float
    now: float
    pools: int
    nodes: int
    sessions: int
    clients: int  # whose sockets are up


class Override(Struct, frozen=True, kw_only=True):
    """A setting that was changed at run time: its value in force, and what the configuration says."""

    value: float
    config: float


class PoolView(Struct, frozen=True, kw_only=True):
    """A pool: its settings in force, its nodes by state, its slots, and its line."""

    name: str
    provider: str
    model: Any = None  # as its nodes declare it
    slots: int
    min_ready: int
    beta: float
    hold_beta: float
    demand_window: float
    max_nodes: int | None  # None: a static pool has no such bound
    idle_timeout: float
    stopped_reserve: int
    overrides: dict[str, Override]
    nodes: dict[str, int]  # how many are in each state
    sessions: int  # slots in use
    free: int  # slots that the next client gets at once
    coming: int  # slots of nodes that are being made, started or booted
    stopped: int  # slots of nodes that are stopped, or being stopped
    waiting: int  # clients in line
    waiting_since: float | None  # when the first of them came
    eta: float | None  # until the first of them gets a slot, if anybody can tell
    starts: int  # sessions that began within the last minute
    breaker: str | None  # why no nodes are made or started at the moment


class NodeView(Struct, frozen=True, kw_only=True):
    """A node."""

    id: str
    pool: str
    managed: bool  # a provider made it
    state: str
    since: float
    deadline: float | None  # when the state ends by itself
    started: bool  # its last boot was the start of a stopped node
    capacity: int
    sessions: int  # slots in use
    linked: bool  # its socket is up
    load: float | None  # 0 to 1, by its last heartbeat
    stats: dict[str, Any] | None  # the same
    epoch: int
    order: str  # what somebody wants of it, whatever the pool's policy says: "stop", "destroy", or nothing
    reason: str
    labels: Mapping[str, Any]


class SessionView(Struct, frozen=True, kw_only=True):
    """A session, from its first message to its end. `since` is when it came."""

    id: str
    pool: str
    node: str
    project: str
    state: str
    since: float
    connected: bool  # its client's socket is up
    position: int | None = None  # in line, from 1
    eta: float | None = None
