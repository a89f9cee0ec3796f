"""When a client in line is told again where it stands: often enough to be of use, and bounded however long the line.

When the first one leaves a line of n, all n move up: to tell each of them would cost n messages a move. So each
client is looked at by itself, at most once in `pause(position)` seconds, and told if what it would
count down to by itself is wrong by now. The pause grows with the position, so that the looks of a
whole line add up to 10 ln(1 + n / 20) a second: 39 for a line of 1,000, 85 for one of 100,000.
"""

from math import ceil

from msgspec import Struct

_FIRST = 2.0  # seconds
_EACH = 0.1  # seconds more for each place
_SHARE = 0.2  # of the time left, by which it may be wrong
_LEAST = 3.0  # seconds, by which it may always be


def pause(position: int) -> float:
    """Return after how many seconds a client at this place in line is looked at again."""
    return _FIRST + _EACH * position


def whole(eta: float | None) -> int | None:
    """Return an ETA as a client is told it: in whole seconds, not too early."""
    return None if eta is None else ceil(eta)


class Told(Struct, frozen=True):
    """What a client was told of its place, and when."""

    position: int
    eta: float | None
    at: float

    def is_stale(self, position: int, eta: float | None, now: float) -> bool:
        """Say whether it is worth a message that the client now stands so. It counts its ETA down by itself."""
        if position != self.position or (eta is None) is not (self.eta is None):
            return True
        if eta is None or self.eta is None:
            return False
        left = max(0.0, self.eta - (now - self.at))
        return abs(eta - left) > max(_LEAST, _SHARE * left)
