"""What replicas say to each other beside sessions' messages."""

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from rtcbridge.core.messages import UpdateId


class Look(Struct, frozen=True, tag=True):
    """To the leader of a pool: something has changed that its plan should know.

    `session` has begun to wait: it counts for a plan, as it would where all is at one place, even if it has left by
    then.
    """

    pool: str
    session: str = ""


class Ask(Struct, frozen=True, tag=True, kw_only=True):
    """To the leader of a pool: may this node register? `managed`: it has shown the token of a node that is made."""

    number: int
    pool: str
    node: str
    managed: bool
    capacity: int
    labels: dict[str, Any]


class Verdict(Struct, frozen=True, tag=True):
    """The answer: whether it may, the epoch that its own must be above, whether it takes sessions, or is drained, and
    the supply without it."""

    number: int
    accepted: bool
    epoch: int = 0
    open: bool = True
    draining: bool = False
    supply: int = 0


class DrainNode(Struct, frozen=True, tag=True):
    """To the replica with a node's socket: tell it to drain."""

    node: str
    epoch: int


class CutNode(Struct, frozen=True, tag=True):
    """To the replica with a node's socket: close that."""

    node: str
    epoch: int
    code: int
    reason: str


class MediaIsUp(Struct, frozen=True, tag=True):
    """To the owner of sessions: what a node's heartbeat says of them."""

    node: str
    sessions: list[str]


class NoUpdates(Struct, frozen=True, tag=True):
    """To the owner of a session: its node does not take updates; `id` is that of the update."""

    session: str
    id: UpdateId | None = None


Control: TypeAlias = NoUpdates | Look | Ask | Verdict | DrainNode | CutNode | MediaIsUp

encode_control = msgspec.msgpack.Encoder().encode
decode_control = msgspec.msgpack.Decoder(Control).decode

# The directions of a session's messages, each before the node's id: epochs of nodes make numbers start anew.
TO_NODE, FROM_NODE, BACK = ">", "<", "!"
CONTROL = "@"
