"""One text for all states that differ in nothing that could matter: the form by which a search knows them again."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import inf
from typing import Any

import msgspec

from rtcbridge.core.fallback import Claim
from rtcbridge.core.line import Line
from rtcbridge.core.projects import Share
from rtcbridge.core.ranked import RankedLine
from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.websocket import WebSocket

# What only counts, names or remembers, and steers nothing; what `check_state` holds to be the same as something
# else; and the socket layer, which is not under test here.
_IGNORED = frozenset(
    {
        "epoch", "timer", "spec", "_spec", "post", "reason", "watch", "errors", "labels", "dialect", "prefix", "target",
        "holders", "_tally", "_alarms", "_bridge", "_reconciler", "_pool", "token", "callbacks", "key", "since",
        "_estimator", "due", "_stirred", "_projects", "_base", "_staffing",
    }
)  # fmt: skip
_ID = re.compile(r"[0-9a-f]{32}|p-[0-9a-f]{6}-[0-9a-f]{8}")


class _Walk:
    """Turns a graph of objects into nested lists; an object that is met again is a number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if (how := _HOW.get(kind)) is None:
            how = _HOW[kind] = _how(kind)
        return how(self, value)

    def items(self, value: Iterable[Any]) -> Any:
        return [self.of(one) for one in value]

    def mapping(self, value: Mapping[str, Any]) -> Any:
        return [(key, self.of(value[key])) for key in sorted(value)]

    def entry(self, value: Entry) -> Any:
        if value.session.state is State.ENDED:
            return "ended"  # nothing of it is ever looked at again, but for the dialect
        return self.object(value)

    def line(self, value: Line) -> Any:
        unbalanced = (
            sorted(share.account.spec.id for share in value.unbalanced) if isinstance(value, RankedLine) else []
        )
        places = [[session, self.of(value.waiters[session])] for session in value]
        ranks = [value.waiters[session].key[0] for session in value] if value.ranked else []
        return [value._within, list(value._untold), unbalanced, ranks, places]

    def share(self, value: Share) -> Any:
        return [value.account.spec.id, value.held, *([key[2] for key in keys] for keys in (value.queued, value.barred))]

    def claim(self, value: Claim) -> Any:
        pools = [[pool.spec.name for pool in some] for some in (value.places, value.tried)]
        holder = value.holder.spec.name if value.holder is not None else ""
        return [value.session, value.front, self.of(value.told), self.of(value.cause), pools, holder]

    def object(self, value: Any) -> Any:
        if (number := self._met.get(id(value))) is not None:
            return number
        self._met[id(value)] = len(self._met)
        kind = type(value)
        if (names := _FIELDS.get(kind)) is None:
            names = _FIELDS[kind] = tuple(name for name in _names(kind, value) if name not in _IGNORED)
        return [kind.__name__, *[self.of(getattr(value, name, None)) for name in names]]


def _how(kind: type) -> Callable[[_Walk, Any], Any]:
    """How the values of a type are written."""
    if kind is Entry:
        return _Walk.entry
    if issubclass(kind, Line):
        return _Walk.line
    if issubclass(kind, Enum):
        return lambda walk, value: value.name
    if kind in (Share, Claim):
        return _Walk.share if kind is Share else _Walk.claim
    if issubclass(kind, dict):
        return _Walk.mapping
    if issubclass(kind, list | tuple | deque):
        return _Walk.items
    if issubclass(kind, set | frozenset):
        return lambda walk, value: sorted(value)
    if issubclass(kind, float):
        return lambda walk, value: 0 if value <= 0 else "inf" if value == inf else "some"
    return _Walk.object


_PLAIN = frozenset({str, bool, int, bytes, type(None)})
_HOW: dict[type, Callable[[_Walk, Any], Any]] = {}
_FIELDS: dict[type, tuple[str, ...]] = {}


def _names(kind: type, value: Any) -> list[str]:
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    ours = [one for one in kind.__mro__ if one is not WebSocket]
    slots = {name for one in ours for name in _as_tuple(vars(one).get("__slots__", ()))}
    own: Mapping[str, Any] = getattr(value, "__dict__", {})
    return sorted((slots | set(own)) - {"__weakref__", "__dict__"})


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def canonical(model: Any) -> str:
    """The form of a model. Ids keep their order, as a tie is broken by it, and lose all else."""
    bridge = model.bridge
    parts = [
        model.places,
        bridge.sessions,
        list(bridge.pools.values()),
        bridge.links,
        model.own,
        model.cloud,
        model.operations,
    ]
    text = repr(_Walk().of(parts))
    order = {id: f"#{rank}" for rank, id in enumerate(sorted(set(_ID.findall(text))))}
    return _ID.sub(lambda found: order[found[0]], text)
