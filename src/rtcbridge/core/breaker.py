"""The circuit breaker of a provider: one that fails again and again is left alone, longer and longer.

After Nygard, "Release It!" (2007): closed, open, half-open. Only creations and starts are counted and held back;
a machine can always be stopped and destroyed. The caller brings the time.
"""

from enum import Enum
from math import inf

_DOUBLINGS = 30  # of the first pause; by then any longest one is reached


class BreakerState(Enum):
    """CLOSED: all goes through. OPEN: nothing does, until a time. HALF_OPEN: one node does, as a probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after so many failures in a row, and closes at the first success.

    Two kinds of failure are counted apart, since the success that ends them differs: the provider refuses (until
    it accepts something), and a machine that was accepted does not come up (until one does).

    Attributes:
        state: as of the last call.
        reason: the last failure, in words; empty while none is counted.
        until: when an open breaker lets a probe through, on the caller's clock.
        probe: the node that is tried while half-open; empty if the next may be.

    Args:
        failures: in a row, that open it; 0 for never.
        pause: seconds that it is open the first time; each failed probe doubles it.
        max_pause: seconds, at most.
    """

    def __init__(self, failures: int, pause: float, max_pause: float) -> None:
        self.state = BreakerState.CLOSED
        self.reason = ""
        self.until = inf
        self.probe = ""
        self._limit, self._pause, self._max_pause = failures, pause, max_pause
        self._refused = self._stillborn = 0
        self._openings = 0

    @property
    def allowance(self) -> int | None:
        """How many nodes may be created or started now; None for any number."""
        if self.state is BreakerState.CLOSED:
            return None
        return int(self.state is BreakerState.HALF_OPEN and not self.probe)

    def begin(self, node: str) -> None:
        """A node is to be created or started."""
        if self.state is BreakerState.HALF_OPEN and not self.probe:
            self.probe = node

    def accept(self) -> None:
        """The provider has accepted a creation or a start."""
        self._refused = 0
        self._close()

    def come_up(self) -> None:
        """A machine that was created or started has come up."""
        self._stillborn = 0
        self._close()

    def fail(self, node: str, reason: str, now: float, *, accepted: bool) -> None:
        """A node failed: the provider refused it, or had `accepted` it and it did not come up.

        While the breaker is not closed, only the probe counts: what else was under way says nothing new.
        """
        if self.state is BreakerState.CLOSED:
            self._stillborn += accepted
            self._refused += not accepted
            self.reason = reason
            if self._limit and max(self._stillborn, self._refused) >= self._limit:
                self._open(now)
        elif self.state is BreakerState.HALF_OPEN and node == self.probe:
            self.reason = reason
            self._open(now)

    def drop(self, node: str) -> None:
        """A node has been given up before it came up or failed: another one may be the probe."""
        if node == self.probe:
            self.probe = ""

    def expire(self, now: float) -> bool:
        """Let the end of the pause take effect; return whether it did."""
        if self.state is not BreakerState.OPEN or self.until > now:
            return False
        self.state, self.until, self.probe = BreakerState.HALF_OPEN, inf, ""
        return True

    def _open(self, now: float) -> None:
        pause = min(self._max_pause, self._pause * 2.0 ** min(self._openings, _DOUBLINGS))
        self.state, self.until, self.probe = BreakerState.OPEN, now + pause, ""
        self._openings += 1

    def _close(self) -> None:
        """Close, unless the other kind of failure keeps it open."""
        if self.state is not BreakerState.CLOSED and max(self._refused, self._stillborn) < self._limit:
            self.state, self.until, self.probe = BreakerState.CLOSED, inf, ""
            self._openings = 0
        if not (self._refused or self._stillborn):
            self.reason = ""
