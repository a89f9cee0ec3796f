"""The interfaces between the bridge and what it stands on. Drivers implement them; only `cli` picks one."""

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Protocol

from msgspec import Struct

from rtcbridge.core.machine import Machine, liveliest
from rtcbridge.core.messages import IceServer
from rtcbridge.ports_keys import (
    SCOPES,
    TOKEN_LIFETIME,
    Authenticator,
    Bounds,
    Identity,
    KeyLimits,
    KeyRow,
    Keys,
    Restrictions,
    TokenTerms,
)

__all__ = [
    "SCOPES",
    "TOKEN_LIFETIME",
    "Authenticator",
    "Bounds",
    "IceError",
    "IceGrant",
    "IceServer",
    "IceServers",
    "IceSource",
    "Identity",
    "KeyLimits",
    "KeyRow",
    "Keys",
    "Launch",
    "Ledger",
    "LedgerError",
    "Machine",
    "NodeRow",
    "Provider",
    "ProviderError",
    "Restrictions",
    "SessionRow",
    "TokenTerms",
    "liveliest",
]


class LedgerError(Exception):
    """The store cannot be opened, read or written. The text is one clear line."""


class ProviderError(Exception):
    """A provider refused or failed an operation. The text is one clear line without secrets."""


# --- what must survive ---


class NodeRow(Struct, frozen=True, kw_only=True):
    """A node as it is stored. `since` is when it entered `state`, in Unix seconds."""

    id: str
    pool: str
    managed: bool  # a provider made it, or is about to
    state: str
    started: bool = False  # its last boot was the start of a stopped node, not a creation
    capacity: int
    epoch: int = 0
    since: float
    reason: str = ""  # why it failed, in words
    labels: str = "{}"  # JSON
    ordered: str = ""  # what somebody wants of it: "stop", "destroy", or nothing
    fence: int = 0  # the token of the leader that wrote it; a row with a higher one stays as it is


class SessionRow(Struct, frozen=True, kw_only=True):
    """One session of the ledger. Times are Unix seconds; `ended` is None while it lives."""

    id: str
    pool: str
    node: str
    project: str
    started: float
    ended: float | None = None
    reason: str = ""
    bounds: str = ""  # JSON of `Bounds`; "" for none


class OverrideRow(Struct, frozen=True, kw_only=True):
    """What was changed at run time of a pool's settings. `changed` is in Unix seconds, `key` who changed it last."""

    pool: str
    settings: str  # JSON: the values by their names
    changed: float
    key: str


class Ledger(Protocol):
    """The durable store: nodes with their intents, run-time settings, and the append-only record of sessions."""

    async def save_node(self, row: NodeRow) -> None:
        """Write one node; durable when it returns. Raises LedgerError."""
        ...

    async def delete_node(self, node: str) -> None:
        """Forget one node; durable when it returns. Raises LedgerError."""
        ...

    def nodes(self) -> Sequence[NodeRow]:
        """Return every stored node."""
        ...

    def take_nodes(self, pool: str, fence: int) -> Sequence[NodeRow]:
        """Return every stored node of a pool, and let nobody with a lower fence write them from now on.

        May be called from any thread. Raises LedgerError.
        """
        ...

    async def save_override(self, row: OverrideRow) -> None:
        """Write what is changed of one pool's settings; durable when it returns. Raises LedgerError."""
        ...

    async def delete_override(self, pool: str) -> None:
        """Forget what was changed of one pool's settings; durable when it returns. Raises LedgerError."""
        ...

    def overrides(self) -> Sequence[OverrideRow]:
        """Return what was changed of the settings of every pool."""
        ...

    def session_started(self, row: SessionRow) -> None:
        """Record a start; written within a tenth of a second. A second one of an id only moves it."""
        ...

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        """Record an end; written within a tenth of a second. Only the first end of an id counts."""
        ...

    def open_sessions(self) -> Sequence[SessionRow]:
        """Return the sessions that started and did not end."""
        ...

    def open_among(self, sessions: Collection[str]) -> Mapping[str, SessionRow]:
        """Return those of these sessions that started and did not end, by id.

        May be called from any thread. Raises LedgerError.
        """
        ...

    def whole_among(self, sessions: Collection[str]) -> Collection[str]:
        """Return those of these sessions of which both the start and the end are recorded.

        May be called from any thread. Raises LedgerError.
        """
        ...

    def recorded_among(self, sessions: Collection[str]) -> Collection[str]:
        """Return those of these sessions of which anything is recorded, be it their end.

        May be called from any thread. Raises LedgerError.
        """
        ...

    def sessions(self, limit: int = 100) -> Sequence[SessionRow]:
        """Return the latest sessions, newest first."""
        ...

    async def flush(self) -> None:
        """Return when all that was recorded before is durable."""
        ...

    async def close(self) -> None:
        """Flush and close; nothing may be called afterwards."""
        ...


# --- STUN and TURN ---


class IceError(Exception):
    """Credentials of a TURN service cannot be had. The text is one clear line without secrets."""


class IceGrant(Struct, frozen=True):
    """STUN and TURN servers for one peer. `expires`: Unix seconds at which to ask anew; infinite if never."""

    servers: tuple[IceServer, ...] = ()
    expires: float = inf


class IceServers(Protocol):
    """The servers that clients and nodes are told."""

    def grant(self, user: str) -> IceGrant:
        """Return the servers for one peer, from what is at hand: called for each connection, it takes microseconds.

        Args:
            user: Names the peer in the logs of the TURN server, where its credentials can carry a name.
        """
        ...

    async def start(self) -> None:
        """Begin to work; it does not fail, and waits for a service for two seconds at most."""
        ...

    async def close(self) -> None:
        """Stop working."""
        ...


class IceSource(Protocol):
    """A TURN service that makes credentials over its API. `name` is for logs."""

    name: str

    async def fetch(self) -> IceGrant:
        """Have new credentials made. Raises IceError."""
        ...


# --- machines ---


class Launch(Struct, frozen=True):
    """What a machine must know to dial in. `url` ends in `/node`."""

    node: str
    pool: str
    url: str
    token: str

    def env(self) -> Mapping[str, str]:
        """The same as the environment of a provider's command or process."""
        return {
            "RTCBRIDGE_NODE": self.node,
            "RTCBRIDGE_POOL": self.pool,
            "RTCBRIDGE_URL": self.url,
            "RTCBRIDGE_NODE_TOKEN": self.token,
        }


class Provider(Protocol):
    """Makes and unmakes the machines of one pool.

    Every operation is idempotent by the node's id, returns when the provider has accepted it (the node itself
    dials in later), and raises ProviderError when it was not accepted. One operation a node runs at a time.
    `list_interval` is the number of seconds between two looks at its machines.
    """

    list_interval: float

    async def create(self, launch: Launch) -> None:
        """Make a machine for this node and start it."""
        ...

    async def start(self, launch: Launch) -> None:
        """Start the stopped machine of this node."""
        ...

    async def stop(self, launch: Launch) -> None:
        """Stop the machine and keep its disk."""
        ...

    async def destroy(self, launch: Launch) -> None:
        """Remove the machine and its disk; a machine that is not there is no error."""
        ...

    async def list(self) -> Mapping[str, Machine] | None:
        """Return how each machine stands, by its node's id; None if the provider cannot tell.

        A node that is missing has no machine, so an answer is never partial: raise ProviderError instead. An
        operation that was accepted before the call shows: a machine is COMING, not missing, when its creation was
        accepted, and not RUNNING any more when its stop was. LEAVING is for one that the provider will take away
        by itself, and soon: its node is drained at once and destroyed afterwards.
        """
        ...

    async def close(self) -> None:
        """Let go of what this object holds; machines are left as they are."""
        ...
