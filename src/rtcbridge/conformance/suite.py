"""Which vectors can be played against a bridge, whether its pool is fit for them, and what came of each."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET

from rtcbridge.conformance.foreign import Foreign, Target
from rtcbridge.conformance.replay import MismatchError, Replay
from rtcbridge.conformance.survey import Ground, UnplayableError, survey
from rtcbridge.conformance.vectors import Step, Vector, load

__all__ = ["Outcome", "Result", "Suite", "UnplayableError", "relaxed", "why_not"]

_TEXTS = frozenset(
    {
        "Maximum pool size reached. Cannot assign a new node.",
        "Failed to start a stopped node.",
        "The node did not answer.",
        "The node was lost.",
    }
)
"""What errors must say, word by word. Of all others the protocol asks only that they say what was wrong."""

_OPTIONAL = frozenset({"eta", "ice_servers", "params", "retry_after"})
"""Fields of the extension and of the node side that depend on a bridge's settings, and on what it has seen."""

_LONGEST = 75.0  # seconds: what the longest of the documented deadlines, resume_grace, may take and a little more
_EMPTY_AGAIN = 90.0  # seconds within which everything that a failed vector may have left in the pool has run out


class Outcome(StrEnum):
    """What came of a vector."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIP = "skip"


class Result(msgspec.Struct, frozen=True):
    """One vector, and what came of it."""

    chapter: str
    name: str
    rule: str
    dialect: str
    """`documented`, or `extension` for the subprotocol rtcbridge.v2."""

    outcome: Outcome
    detail: str = ""
    """What came instead, or why it was not played."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Suite:
    """A run of all vectors that a bridge can be held to.

    Args:
        target: the bridge.
        slow: play also those that wait for the documented deadlines, a minute each.
        only: a text in the chapter, the name or the rule of those that are wanted; all if it is empty.
    """

    target: Target
    slow: bool = False
    only: str = ""

    def chosen(self) -> list[Vector]:
        """Return those that are wanted."""
        return [each for each in load() if self.only.lower() in f"{chapter(each)}: {each.name}: {each.rule}".lower()]

    async def run(self) -> AsyncIterator[Result]:
        """Play one after the other: each needs the pool for itself.

        Raises:
            UnplayableError: There is no bridge, it takes no such key, or the pool is not free for this.
        """
        ground = await survey(self.target)
        target = ground.target
        run = secrets.token_hex(4)
        spoilt = ""
        for number, vector in enumerate(self.chosen()):
            reason = spoilt or why_not(vector, ground, slow=self.slow)
            if reason:
                yield _result(vector, Outcome.SKIP, reason)
                continue
            result = await _play(vector, target, f"conformance-{run}-{number:03d}")
            yield result
            if result.outcome is Outcome.FAIL and ground.has_nodes:
                spoilt = await _empty_again(target)


async def _play(vector: Vector, target: Target, name: str) -> Result:
    began = time.monotonic()
    waits = _waits(vector)
    beats = waits and not any(_says(step, "The node was lost.") for step in vector.steps)
    world = Foreign(target, name, _LONGEST if waits else 0.0, beats=beats)
    outcome, detail = Outcome.PASS, ""
    try:
        await Replay(relaxed(vector), world, _OPTIONAL).run()
    except MismatchError as mismatch:
        outcome, detail = Outcome.FAIL, str(mismatch).removeprefix(f"{vector.id}, ").removeprefix(f"{vector.id}: ")
    finally:
        await world.finish()
    return _result(vector, outcome, detail, round(time.monotonic() - began, 3))


async def _empty_again(target: Target) -> str:
    """Wait until nothing is left in the pool of a vector that failed; say why no more can be played if something is."""
    until = time.monotonic() + _EMPTY_AGAIN
    while True:
        try:
            await survey(target)
        except UnplayableError as error:
            if time.monotonic() > until:
                return f"after a failure: {error}"
            await asyncio.sleep(1.0)
        else:
            return ""


def chapter(vector: Vector) -> str:
    """The chapter of the protocol that a vector is of, such as `bad input`."""
    return vector.file.partition("-")[2].replace("-", " ")


def _result(vector: Vector, outcome: Outcome, detail: str, seconds: float = 0.0) -> Result:
    extended = any(step.subprotocol for step in vector.steps)
    dialect = "extension" if extended else "documented"
    return Result(chapter(vector), vector.name, vector.rule, dialect, outcome, detail, seconds)


def why_not(vector: Vector, ground: Ground, *, slow: bool) -> str:
    """Return why a vector cannot be played there, or nothing."""
    used = msgspec.json.encode(vector.steps).decode()
    reasons: Sequence[tuple[bool, str]] = (
        (vector.scripted, "needs a provider that does as the test says"),
        ("restart" in vector.needs, "needs a bridge that may be killed"),
        ("keys" in vector.needs, "needs a key that may be revoked"),
        ("turn" in vector.needs, "needs a TURN server's secret"),
        (vector.pool != {"provider": "static"}, "needs a pool with other settings"),
        ("$revoked_key" in used and "revoked_key" not in ground.target.values, "needs --revoked-key"),
        ("$client_token" in used and "client_token" not in ground.target.values, "the bridge makes no client tokens"),
        (not ground.extended and any(step.subprotocol for step in vector.steps), "the bridge has no rtcbridge.v2"),
        (not ground.has_nodes and ("$node_key" in used or _claims(vector)), "needs --node-key and a pool of its own"),
        (_is_short(vector), "waits for shorter deadlines than the documented"),
        (not slow and _waits(vector), "waits for a deadline: --slow"),
    )
    return next((reason for is_so, reason in reasons if is_so), "")


def _claims(vector: Vector) -> bool:
    """Whether it would take a slot, or a place in the line, of whoever uses the pool."""
    texts = [msgspec.json.encode(step).decode() for step in vector.steps]
    enters = any(step.open == "client" or "$client_key" in text for step, text in zip(vector.steps, texts, strict=True))
    asks = any("session_start" in text or "offer" in text for text in texts)
    return any(step.open == "node" for step in vector.steps) or (enters and asks)


def _is_short(vector: Vector) -> bool:
    """Whether it cannot be waited for: max_session is hours, and clients in line are told new ETAs meanwhile."""
    passes = any(step.pass_ is not UNSET for step in vector.steps)
    extended = any(step.subprotocol for step in vector.steps)
    return passes or (_waits(vector) and (extended or vector.limits == "brief"))


def _waits(vector: Vector) -> bool:
    return any(step.after is not None for step in vector.steps)


def _says(step: Step, text: str) -> bool:
    return isinstance(step.expect, dict) and step.expect.get("message") == text


def relaxed(vector: Vector) -> Vector:
    """The vector without what only our own bridge says: its words for mistakes, and its reasons for an end."""
    steps = [
        msgspec.structs.replace(step, **{name: _relaxed(getattr(step, name)) for name in ("expect", "skip")})
        for step in vector.steps
    ]
    return msgspec.structs.replace(vector, steps=steps)


def _relaxed(expected: Any) -> Any:
    if not isinstance(expected, dict):
        return expected
    match expected.get("type"):
        case "error" if expected.get("message") not in _TEXTS and "message" in expected:
            return expected | {"message": "$text"}
        case "session_end" if "reason" in expected:
            return expected | {"reason": "$text"}
    return expected
