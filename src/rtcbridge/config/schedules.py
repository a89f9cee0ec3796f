"""Windows of time that cron expressions open: `0 8 * * mon-fri`, in a time zone, for so long or until a time of day.

Level-triggered: whether a window is open follows from the time alone. Daylight saving time is followed as Debian's
cron does: what falls into an hour that is skipped comes at once, and what falls into one that comes twice comes
once. Times are Unix seconds.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import inf
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec.structs import asdict

from rtcbridge.core.spec import Window

_EXAMPLE = "0 8 * * mon-fri"


class Schedule:
    """One window.

    Args:
        cron: when it opens: minute, hour, day of month, month, day of week.
        timezone: IANA name, such as `Europe/Berlin`.
        window: what is in force while it is open.
        duration: seconds that it stays open; 0 if `until` says when it ends.
        until: the time of day, `HH:MM`, at which it ends.

    Raises:
        ValueError: `cron` or `timezone` is none. The text begins with which of both, and says what was expected.
    """

    def __init__(self, cron: str, timezone: str, window: Window, *, duration: float = 0.0, until: str = "") -> None:
        self.window = window
        self._cron, self._duration = cron, duration
        self._until = tuple(map(int, until.split(":"))) if until else None
        try:
            self._zone = ZoneInfo(timezone)
        except (ValueError, OSError, LookupError):
            raise ValueError(f'timezone: expected an IANA name such as Europe/Berlin, got "{timezone}"') from None
        if len(cron.split()) != 5:
            raise ValueError(f'cron: expected five fields such as "{_EXAMPLE}", got "{cron}"')
        try:
            CronSim(cron, datetime.fromtimestamp(0, self._zone))
        except CronSimError as error:
            text = str(error).replace("Bad", "bad")
            raise ValueError(f'cron: expected five fields such as "{_EXAMPLE}", got "{cron}": {text}') from None

    def look(self, now: float) -> tuple[bool, float]:
        """Return whether the window is open, and when that may change."""
        last = next(CronSim(self._cron, self._local(now) + timedelta(seconds=1), reverse=True), None)
        if last is not None and (end := self._end(last)) > now:
            return True, end
        following = next(CronSim(self._cron, self._local(now)), None)
        return False, inf if following is None else following.timestamp()

    def _local(self, now: float) -> datetime:
        return datetime.fromtimestamp(int(now // 1), self._zone)

    def _end(self, opened: datetime) -> float:
        if self._until is None:
            return opened.timestamp() + self._duration
        hour, minute = self._until
        end = opened.replace(hour=hour, minute=minute, second=0, fold=0)
        if end.timestamp() <= opened.timestamp():
            end += timedelta(days=1)
        return end.timestamp()


def in_force(schedules: Iterable[Schedule], now: float) -> tuple[Window | None, float]:
    """Return what is in force now, None if no window is open, and when that may change.

    Of several open windows, each size is that of the last one which names it.
    """
    sizes: dict[str, int] = {}
    until = inf
    for schedule in schedules:
        is_open, change = schedule.look(now)
        until = min(until, change)
        if is_open:
            sizes |= {name: size for name, size in asdict(schedule.window).items() if size is not None}
    return (Window(**sizes) if sizes else None), until
