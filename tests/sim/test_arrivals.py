import math
from bisect import bisect_left
from pathlib import Path

import pytest

from rtcbridge.sim.arrivals import DAY, ArrivalsError, Rhythm, generate, read
from rtcbridge.sim.world import Fixed


def test_the_same_seed_gives_the_same_sessions_and_another_one_others():
    assert generate(Rhythm(days=1), 1) == generate(Rhythm(days=1), 1)
    assert generate(Rhythm(days=1), 1) != generate(Rhythm(days=1), 2)


def test_the_reference_week():
    sessions = generate(Rhythm(), 1)
    assert sessions == sorted(sessions)
    assert 14_000 < len(sessions) < 16_500
    assert all(0 <= at < 7 * DAY and 15 <= lasts <= 3600 for at, lasts in sessions)


def test_the_rate_follows_the_hour():
    rhythm = Rhythm(days=5, crowds=0, length=Fixed(480.0))
    hours = [0] * 24
    for at, _ in generate(rhythm, 3):
        hours[int(at // 3600) % 24] += 1
    for hour, count in enumerate(hours):
        mean = sum(rhythm.share(hour * 3600 + minute * 60) for minute in range(60)) / 60
        expected = 5 * 3600 * rhythm.peak / 480 * mean
        assert abs(count - expected) < 5 * math.sqrt(expected)


def test_a_flash_crowd_comes_within_a_minute():
    quiet = Rhythm(days=1, peak=400, trough=1, crowds=0)
    rush = Rhythm(days=1, peak=400, trough=1, crowds=1, crowd=1.0)
    most = [max(_within_a_minute([at for at, _ in generate(rhythm, 5)])) for rhythm in (quiet, rush)]
    assert most[0] < 150
    assert most[1] >= 400


def _within_a_minute(times):
    return [bisect_left(times, at + 60) - index for index, at in enumerate(times)]


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sessions.csv"
    file.write_text(text)
    return file


def test_a_record_is_counted_from_midnight_and_sorted(tmp_path):
    file = _file(tmp_path, f"id,seconds,started\nb,20.5,{3 * DAY + 100}\na,10,1970-01-04T00:00:07Z\n")
    assert read(file) == [(7.0, 10.0), (100.0, 20.5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected the columns started and seconds in the first line"),
        ("started\n1\n", "expected the columns started and seconds in the first line"),
        ("started,seconds\n", "expected at least one session"),
        ("started,seconds\n1,2\nx,2\n", "line 3: started: expected Unix seconds or ISO 8601, got 'x'"),
        ("started,seconds\nnan,2\n", "line 2: started: expected Unix seconds or ISO 8601, got 'nan'"),
        ("started,seconds\n1,-2\n", "line 2: seconds: expected a number from 0, got '-2'"),
        ("started,seconds\n1\n", "line 2: seconds: expected a number from 0, got ''"),
        ("started,seconds\n1,1\n99999999,1\n", "expected sessions of at most 400 days"),
    ],
)
def test_mistakes_in_a_record(tmp_path, text, expected):
    file = _file(tmp_path, text)
    with pytest.raises(ArrivalsError) as error:
        read(file)
    assert str(error.value) == f"{file}: {expected}"


def test_a_record_that_cannot_be_read(tmp_path):
    with pytest.raises(ArrivalsError, match=r"none\.csv: cannot be read: No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"started,seconds\n\xff,1\n")
    with pytest.raises(ArrivalsError, match="expected a CSV file in UTF-8"):
        read(tmp_path / "b.csv")
