"""One text for all states that differ in nothing that could matter: the form by which a search knows them again."""

import re
from collections import OrderedDict, deque
from collections.abc import Mapping
from enum import Enum
from math import inf
from types import FunctionType, MethodType
from typing import Any

import msgspec

from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.websocket import WebSocket

# What only counts, names or remembers, and steers nothing; what `check_state` holds to be the same as something
# else; and the socket layer, which is not under test here.
_IGNORED = frozenset(
    {
        "epoch", "timer", "spec", "_spec", "post", "reason", "watch", "errors", "labels", "dialect", "prefix", "target",
        "holders", "_tally", "_alarms", "_bridge", "_reconciler", "_pool", "last_beat", "token", "callbacks",
    }
)  # fmt: skip
_ID = re.compile(r"[0-9a-f]{32}|p-[0-9a-f]{6}-[0-9a-f]{8}")


class _Walk:
    """Turns a graph of objects into nested tuples; an object that is met again is a number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._fields: dict[type, tuple[str, ...]] = _FIELDS

    def of(self, value: Any) -> Any:  # noqa: C901, PLR0911 - one case a kind of value
        kind = type(value)
        if kind is str or kind is bool or kind is int or value is None or kind is bytes:
            return value
        if kind is float:
            return 0 if value <= 0 else "inf" if value == inf else "some"
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, list | tuple | deque):
            return [self.of(one) for one in value]
        if kind is OrderedDict:
            return [(key, self.of(one)) for key, one in value.items()]
        if isinstance(value, dict):
            return [(str(key), self.of(value[key])) for key in sorted(value, key=str)]
        if isinstance(value, set | frozenset):
            return sorted(value) if all(isinstance(one, str) for one in value) else len(value)
        if kind is MethodType or kind is FunctionType:
            return value.__name__
        if (number := self._met.get(id(value))) is not None:
            return number
        self._met[id(value)] = len(self._met)
        if kind is Entry and value.session.state is State.ENDED:
            return ["Entry", "ended"]  # nothing of it is ever looked at again, but for the dialect
        return [kind.__name__, *(self.of(getattr(value, name, None)) for name in self.fields(kind, value))]

    def fields(self, kind: type, value: Any) -> tuple[str, ...]:
        if (names := self._fields.get(kind)) is None:
            names = self._fields[kind] = tuple(name for name in _names(kind, value) if name not in _IGNORED)
        return names


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
    parts = [model.places, bridge.sessions, model.pool, bridge.links, model.own, model.cloud, model.operations]
    text = repr(_Walk().of(parts))
    order = {id: f"#{rank}" for rank, id in enumerate(sorted(set(_ID.findall(text))))}
    return _ID.sub(lambda found: order[found[0]], text)
