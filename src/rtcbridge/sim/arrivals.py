"""Who comes when, and stays how long: from a record, or a seeded daily rhythm with flash crowds."""

import csv
import math
import random
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from rtcbridge.sim.world import Distribution, Lognormal

DAY = 86_400.0
MOST = 5_000_000  # sessions in one simulation
Session: TypeAlias = tuple[float, float]  # arrives at, seconds from the beginning; lasts so many seconds


class ArrivalsError(Exception):
    """A record that cannot be read; the text is one line with the file, the row, and what was expected."""


class Rhythm(Struct, frozen=True, kw_only=True):
    """A daily rhythm of arrivals: a Poisson process whose rate is highest at 20:00 and lowest at 08:00.

    Attributes:
        days: how long.
        peak: sessions at once, on the average, at the busiest hour of a weekday.
        trough: the rate at 08:00 as a share of the rate at 20:00.
        weekend: the factor of the sixth and the seventh day.
        crowds: flash crowds a day, at any time; each comes within a minute.
        crowd: the size of a flash crowd as a share of the peak, scaled by the hour's rate; two at least.
        length: of a session; what is drawn is kept between `shortest` and `longest`.
    """

    days: float = 7.0
    peak: float = 25.0
    trough: float = 0.06
    weekend: float = 1.25
    crowds: float = 2.0
    crowd: float = 0.25
    length: Distribution = Lognormal(480.0, 1.1)
    shortest: float = 15.0
    longest: float = 3600.0

    def share(self, time: float) -> float:
        """The rate at a time as a share of that of a weekday's peak."""
        wave = 0.5 * (1 + math.cos((time / 3600 % 24 - 20) / 24 * 2 * math.pi))
        share: float = self.trough + (1 - self.trough) * wave**1.6
        return share * (self.weekend if int(time // DAY) % 7 >= 5 else 1.0)


def generate(rhythm: Rhythm, seed: int) -> list[Session]:
    """Draw the sessions of a rhythm, by thinning (Lewis and Shedler 1979); the same seed gives the same ones."""
    draw = random.Random(f"arrivals {seed}")  # noqa: S311 - a simulation
    end, most = rhythm.days * DAY, max(1.0, rhythm.weekend)
    rate = rhythm.peak / rhythm.length.mean * most
    times, time = [], draw.expovariate(rate)
    while time < end:
        if draw.random() * most < rhythm.share(time):
            times.append(time)
        time += draw.expovariate(rate)
    for _ in range(round(rhythm.days * rhythm.crowds)):
        begin = draw.random() * end
        size = max(2, int(rhythm.crowd * rhythm.peak * rhythm.share(begin)))
        times += [begin + draw.random() * 60 for _ in range(size)]
    lasts = (min(rhythm.longest, max(rhythm.shortest, rhythm.length.draw(draw))) for _ in times)
    return [(time, length) for time, length in zip(sorted(times), lasts, strict=True) if time < end]


def read(file: str | Path) -> list[Session]:
    """Read sessions from a CSV file with the columns `started` and `seconds`; others are left alone.

    `started` is in Unix seconds or ISO 8601. Time is counted from the midnight (UTC) before the first.

    Raises:
        ArrivalsError: the file cannot be read, or something in it is wrong.
    """
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            missing = {"started", "seconds"} - set(rows.fieldnames or ())
            if missing:
                raise ArrivalsError(f"{file}: expected the columns started and seconds in the first line")
            return shifted([_session(file, rows.line_num, row) for row in _bounded(file, rows)], file)
    except OSError as error:
        raise ArrivalsError(f"{file}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ArrivalsError(f"{file}: expected a CSV file in UTF-8") from None


def _bounded(file: str | Path, rows: Iterable[dict[str, str]]) -> Iterable[dict[str, str]]:
    for number, row in enumerate(rows):
        if number == MOST:
            raise ArrivalsError(f"{file}: expected at most {MOST} sessions")
        yield row


def _session(file: str | Path, line: int, row: dict[str, str]) -> Session:
    started, seconds = row["started"] or "", row["seconds"] or ""
    try:
        begin = _moment(started)
        if not abs(begin) < 1e11:
            raise ValueError
    except ValueError:
        raise ArrivalsError(
            f"{file}: line {line}: started: expected Unix seconds or ISO 8601, got {started[:40]!r}"
        ) from None
    try:
        lasted = float(seconds)
        if not 0 <= lasted <= 1e7:
            raise ValueError
    except ValueError:
        raise ArrivalsError(f"{file}: line {line}: seconds: expected a number from 0, got {seconds[:40]!r}") from None
    return begin, lasted


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()


def shifted(sessions: list[Session], file: str | Path) -> list[Session]:
    """Sort sessions in Unix time, and count their time from the midnight (UTC) before the first.

    Raises:
        ArrivalsError: there are none, too many, or they are of more than 400 days; `file` is named in it.
    """
    if len(sessions) > MOST:
        raise ArrivalsError(f"{file}: expected at most {MOST} sessions")
    if not sessions:
        raise ArrivalsError(f"{file}: expected at least one session")
    sessions.sort()
    midnight = sessions[0][0] // DAY * DAY
    if sessions[-1][0] - midnight > 400 * DAY:
        raise ArrivalsError(f"{file}: expected sessions of at most 400 days")
    return [(begin - midnight, lasted) for begin, lasted in sessions]
