"""What a pool can say of its line. The one place where the admin API asks for it."""

from collections.abc import Mapping

from rtcbridge.core.pool import Pool


def first(pool: Pool) -> str | None:
    """The session that is served next."""
    return next(iter(pool.line), None)


def positions(pool: Pool) -> Mapping[str, int]:
    """The place in line of every session that waits, from 1."""
    return {session: place for place, session in enumerate(pool.line, start=1)}


def eta(pool: Pool, session: str, now: float) -> float | None:
    """Seconds until a session that waits gets a slot; None if nobody can tell. `now` is on the bridge's clock."""
    return None
