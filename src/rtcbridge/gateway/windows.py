"""Follows the schedules of the pools: whenever a window opens or ends, its pool is given other sizes."""

import structlog

from rtcbridge.config.schedules import Schedule, in_force
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.timers import Timer

log = structlog.get_logger(__name__)

_LOOK = 15.0  # seconds between two looks at the time of day, at most: somebody may set the clock


class Windows:
    """What is in force follows from the time alone, so that a bridge that starts within a window is in it.

    Args:
        bridge: whose pools and clock these are.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._schedules: dict[str, list[Schedule]] = {
            pool.name: [schedule.compiled() for schedule in pool.schedules]
            for pool in bridge.config.pools
            if pool.schedules
        }
        self._timer: Timer | None = None

    def start(self) -> None:
        """Put in force what is to be in force now, and go on doing so."""
        if not self._schedules:
            return
        now = self._bridge.wall()
        pause = _LOOK
        for name, schedules in self._schedules.items():
            window, until = in_force(schedules, now)
            pause = min(pause, max(0.0, until - now))
            pool = self._bridge.pools[name]
            before = pool.spec
            pool.show(window)
            if pool.spec != before:
                spec = pool.spec
                log.info(
                    "schedule",
                    pool=name,
                    min_ready=spec.min_ready,
                    max_nodes=spec.max_nodes,
                    stopped_reserve=spec.stopped_reserve,
                )
                self._bridge.settle(pool)
                self._bridge.changed(pool)
        self._timer = self._bridge.wheel.call_later(pause, self.start)

    def stop(self) -> None:
        """Leave everything as it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
