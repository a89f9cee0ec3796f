"""An event loop whose clock stands still until it is moved: the same program always runs in the same order."""

import asyncio
import selectors
from typing import Any


class _Idle(selectors.SelectSelector):
    """Instead of waiting for sockets, let the loop's own clock go to its next timer."""

    loop: "ManualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.loop.idle(timeout)
        return []


class ManualLoop(asyncio.SelectorEventLoop):
    """`advance(0)` runs all that is ready; `advance(seconds)` all that is due until then, each at its time.

    Args:
        now: What its clock shows at the beginning, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = self._until = now
        idle = _Idle()
        idle.loop = self
        super().__init__(idle)

    def time(self) -> float:
        return self._now

    def idle(self, timeout: float | None) -> None:
        """Nothing is ready: go to the next timer, if it is due before the time that was asked for."""
        if timeout is None or self._now + timeout > self._until:
            self._now = self._until
            self.stop()
        else:
            self._now += timeout

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self._until = self._now + seconds
        self.run_forever()

    def leap(self, seconds: float) -> None:
        """Let the clock jump: all that became due is late, as after a pause of the whole machine."""
        self._now += seconds
        self.advance()
