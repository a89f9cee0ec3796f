"""Two bounded memories of the last while: a count over a minute, and addresses that failed too often."""

import ipaddress
from collections import OrderedDict

WINDOW = 60
"""Seconds that a `RecentCount` looks back."""


class RecentCount:
    """How often something has happened within the last `WINDOW` seconds. Costs the same however often it happens.

    Attributes:
        ever: How often in all.
    """

    __slots__ = ("_bins", "_second", "ever")

    def __init__(self) -> None:
        self.ever = 0
        self._bins = [0] * WINDOW
        self._second = 0

    def add(self, now: float) -> None:
        """Count one more. `now`: monotonic seconds."""
        second = int(now)
        if second != self._second:
            self._advance(second)
        self._bins[second % WINDOW] += 1
        self.ever += 1

    def total(self, now: float) -> int:
        """Return the count. `now`: monotonic seconds."""
        self._advance(int(now))
        return sum(self._bins)

    def _advance(self, second: int) -> None:
        for passed in range(max(self._second, second - WINDOW) + 1, second + 1):
            self._bins[passed % WINDOW] = 0
        self._second = max(self._second, second)


class Throttle:
    """Tells when an address has failed too often: a leaky bucket an address (Turner 1986), for the latest of them.

    Args:
        burst: Failures at once that are let pass.
        rate: Failures a second that are forgotten.
        size: Addresses that are remembered.
    """

    def __init__(self, burst: int = 20, rate: float = 1.0, size: int = 4096) -> None:
        self._burst, self._rate, self._size = burst, rate, size
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str, now: float) -> None:
        """Note a failure. `now`: monotonic seconds."""
        network = _network(address)
        self._levels[network] = (self._level(network, now) + 1.0, now)
        self._levels.move_to_end(network)
        if len(self._levels) > self._size:
            self._levels.popitem(last=False)

    def blocks(self, address: str, now: float) -> bool:
        """Whether the next try is to be refused unseen. `now`: monotonic seconds."""
        return self._level(_network(address), now) > self._burst - 1

    def _level(self, network: str, now: float) -> float:
        level, since = self._levels.get(network, (0.0, now))
        return max(0.0, level - (now - since) * self._rate)


def _network(address: str) -> str:
    """An IPv6 client has 2^64 addresses to try from, so its network counts as one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
