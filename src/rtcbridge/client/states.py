"""Where a session is."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a session is. `full` is a place in the line; `waiting` is a node that waits for us."""

    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    PENDING = "pending"
    FULL = "full"
    WAITING = "waiting"
    NEGOTIATING = "negotiating"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


class Place(NamedTuple):
    """A place in line: 1 is the next to be served; `eta` is in seconds, None while nothing is known."""

    position: int
    eta: int | None = None
