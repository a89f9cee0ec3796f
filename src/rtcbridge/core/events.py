"""What can happen to a session (events), and what a session can ask to be done (effects)."""

from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from rtcbridge.core.errors import Error
from rtcbridge.core.messages import Candidate, NodeAnswer, NodeCandidate, Offer, SessionStart, Status


class Source(Enum):
    """Who speaks."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and these are looked up for each message

    CLIENT = "client"
    NODE = "node"
    POOL = "pool"
    CLOCK = "clock"
    OPERATOR = "operator"


# --- events, beside the messages of the wire ---


class Closed(Struct, frozen=True):
    """The client's socket ended with a Close frame."""


class Dropped(Struct, frozen=True):
    """The client's socket ended without one, or the bridge itself gave it up."""


class Away(Struct, frozen=True):
    """The client's socket ended as for `Dropped`, and the client may come back on another one."""


class Abandoned(Struct, frozen=True):
    """The client of a session that was being set up did not come back in time."""


class Back(Struct, frozen=True):
    """The client of a session is back, on a new socket."""


class MediaUp(Struct, frozen=True):
    """The node's peer connection is connected, by its own word or in a heartbeat."""


class MediaDown(Struct, frozen=True):
    """The node's peer connection failed or closed."""

    reason: str


class Declined(Struct, frozen=True):
    """The node answered `error`."""


class Granted(Struct, frozen=True):
    """The pool gave a slot of this node, or renewed the reservation of it."""

    node: str


class Pending(Struct, frozen=True):
    """The place in line is within what is on its way."""


class Full(Struct, frozen=True):
    """The place in line is beyond what is on its way."""


class Failed(Struct, frozen=True):
    """The node that was on its way failed, and nothing is left."""

    error: Error


class Lost(Struct, frozen=True):
    """The node that holds the slot is lost."""


class Timeout(Struct, frozen=True):
    """The deadline of the present state has passed."""


class Expired(Struct, frozen=True):
    """The session reached `max_session`."""


class Cancelled(Struct, frozen=True):
    """An operator ends the session, and says why."""

    reason: str


PoolEvent: TypeAlias = Granted | Pending | Full | Failed | Lost
Event: TypeAlias = (
    SessionStart | Offer | Candidate | Closed | Dropped | Away | Back | NodeAnswer | NodeCandidate | MediaUp | MediaDown
    | Declined | PoolEvent | Timeout | Expired | Abandoned | Cancelled
)  # fmt: skip


# --- effects ---


class SendClient(Struct, frozen=True):
    """Send this message to the client."""

    data: bytes


class Inform(Struct, frozen=True):
    """Tell the client where its session stands."""

    status: Status


class Refuse(Struct, frozen=True):
    """Tell the client that something cannot be, and why."""

    error: Error


class SendNode(Struct, frozen=True):
    """Send this message to that node. An offer goes with ICE servers, which are made when it is sent."""

    node: str
    data: bytes
    is_offer: bool = False


class Acquire(Struct, frozen=True):
    """Get a slot or a place in line, at its `front` or end.

    One that is not `patient` leaves the line when it would be full.
    """

    patient: bool
    front: bool = False


class Stay(Struct, frozen=True):
    """Keep the place in line from now on, also when it becomes full."""


class Yield(Struct, frozen=True):
    """The reservation ran out: let it go if others wait, renew it if not; the pool's answer follows."""


class Suspend(Struct, frozen=True):
    """Serve the session no more: it keeps its place in line, and gives back the slot that it may have."""


class Resume(Struct, frozen=True):
    """Serve the session again when its turn comes; the pool's word on what it has now follows."""


class Reassign(Struct, frozen=True):
    """Give the slot back and get one of another node than `exclude`, before all others."""

    exclude: str


class Begin(Struct, frozen=True):
    """Record that the session began on this node."""

    node: str


class End(Struct, frozen=True):
    """Free the slot or place and record the end. `rejoin`: a new session goes to the front of the line."""

    reason: str
    rejoin: bool = False


Effect: TypeAlias = (
    SendClient | Inform | Refuse | SendNode | Acquire | Stay | Yield | Suspend | Resume | Reassign | Begin | End
)  # fmt: skip
