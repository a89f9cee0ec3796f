"""What replicas say to each other beside sessions' messages."""

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from rtcbridge.core.carried import CarriedSession
from rtcbridge.core.messages import UpdateId
from rtcbridge.core.replay import Mailbox
from rtcbridge.gateway.shared.pool import Carried
from rtcbridge.gateway.views import SessionView
from rtcbridge.ports import Bounds


class Guest(Struct):
    """A session of another replica, on a node whose socket is here. `owner` is "" while nobody has spoken for it."""

    owner: str
    node: str


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


class Claim(Struct, frozen=True, tag=True):
    """To any replica: a client of this project has shown the token of a visit to the replica `by`: hand it over."""

    visit: str
    project: str
    by: str


class Unknown(Struct, frozen=True, tag=True):
    """The answer to `Claim` of a replica that does not have the visit."""

    visit: str


class Handed(Struct, frozen=True, tag=True, kw_only=True):
    """A visit, with its session if it has one, is the receiver's from now on.

    `anew`, `last`, `mailbox`: of the visit, whose client is away. `left`: seconds for which it is expected back without
    a session. `carried`: what is known of the session's slot or place; `held`: what could not be sent to its node yet;
    `bounds`: what binds it.
    """

    visit: str
    project: str
    pool: str
    mailbox: Mailbox
    anew: bool
    last: int
    left: float
    session: CarriedSession | None = None
    begun: bool = False
    carried: Carried | None = None
    held: list[bytes] = []
    bounds: Bounds | None = None


class Taken(Struct, frozen=True, tag=True):
    """The answer to `Handed`."""

    visit: str


class Owned(Struct, frozen=True, tag=True):
    """To the replica with a node's socket: a session on it is the sender's now."""

    session: str
    node: str


class NotMine(Struct, frozen=True, tag=True):
    """The answer to `MediaIsUp` about a session that has ended: its end did not reach the node."""

    session: str
    node: str


class Forward(Struct, frozen=True, tag=True):
    """A message of a session that has been handed over meanwhile, as it came."""

    session: str
    direction: str
    term: int
    data: bytes


class TellSessions(Struct, frozen=True, tag=True):
    """To any replica: which sessions does it own?"""

    number: int


class SessionsHere(Struct, frozen=True, tag=True):
    """The answer."""

    number: int
    sessions: list[SessionView]


class Act(Struct, frozen=True, tag=True):
    """To the leader of a node's pool: do what an operator wants."""

    number: int
    node: str
    action: str


class EndSession(Struct, frozen=True, tag=True):
    """To the owner of a session: end it, since an operator wants that."""

    number: int
    session: str
    reason: str


class Done(Struct, frozen=True, tag=True):
    """The answer to both: `error` is "" if it is done."""

    number: int
    error: str = ""
    found: bool = True


AtDesk: TypeAlias = TellSessions | SessionsHere | Act | EndSession | Done
OfVisit: TypeAlias = Claim | Unknown | Handed | Taken
OfSession: TypeAlias = NoUpdates | Forward | Owned | NotMine
Control: TypeAlias = AtDesk | OfVisit | OfSession | Look | Ask | Verdict | DrainNode | CutNode | MediaIsUp

encode_control = msgspec.msgpack.Encoder().encode
decode_control = msgspec.msgpack.Decoder(Control).decode

# The directions of a session's messages, each before the node's id: epochs of nodes make numbers start anew.
TO_NODE, FROM_NODE, BACK = ">", "<", "!"
CONTROL = "@"
