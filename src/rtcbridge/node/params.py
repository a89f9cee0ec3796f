"""Typed parameters that a model declares and a client sets while the stream runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

_RESERVED = frozenset({"get", "items", "keys", "values"})
_LARGEST = 1e15  # numbers beyond this size are nobody's setting, and whole ones are not exact in JSON
_MAX_TEXT = 2000  # characters, where a Text says nothing else


class ParamError(ValueError):
    """A value that the declaration does not allow; the text begins with the parameter's name."""


@dataclass(frozen=True)
class Param:
    """What all kinds share.

    Attributes:
        default: the value that a session starts with.
        title: what a person reads beside the control; made from the name when empty.
        help: one more sentence for that person.
    """

    kind: ClassVar[str] = ""
    default: Any
    title: str = ""
    help: str = ""

    def check(self, name: str, value: Any) -> Any:
        """Return `value` in the form that the model is given. Raises ParamError."""
        raise NotImplementedError

    def _extra(self) -> dict[str, Any]:
        return {}

    def describe(self, name: str) -> dict[str, Any]:
        """Return the declaration as it goes over the wire."""
        entry = {
            "name": name,
            "kind": self.kind,
            "title": self.title or name.replace("_", " ").capitalize(),
            "default": self.default,
        }
        entry |= {key: value for key, value in self._extra().items() if value is not None}
        return entry | ({"help": self.help} if self.help else {})


@dataclass(frozen=True, kw_only=True)
class _Number(Param):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    _noun: ClassVar[str] = "a number"

    def _extra(self) -> dict[str, Any]:
        return {"min": self.min, "max": self.max, "step": self.step}

    def _expected(self, name: str) -> ParamError:
        bounds = ""
        if self.min is not None and self.max is not None:
            bounds = f" from {self.min:g} to {self.max:g}"
        elif self.min is not None:
            bounds = f" of at least {self.min:g}"
        elif self.max is not None:
            bounds = f" of at most {self.max:g}"
        return ParamError(f"{name}: expected {self._noun}{bounds}")

    def _number(self, name: str, value: Any) -> int | float:
        """Return `value` if it is a finite number within the bounds. Raises ParamError."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
            raise self._expected(name)
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if not low <= value <= high:
            raise self._expected(name)
        return value


@dataclass(frozen=True)
class Float(_Number):
    """A number, with optional `min`, `max` and `step`."""

    kind: ClassVar[str] = "float"
    default: float

    def check(self, name: str, value: Any) -> float:
        """Return a float. Raises ParamError."""
        return float(self._number(name, value))


@dataclass(frozen=True)
class Int(_Number):
    """A whole number, with optional `min`, `max` and `step`."""

    kind: ClassVar[str] = "int"
    _noun: ClassVar[str] = "a whole number"
    default: int

    def check(self, name: str, value: Any) -> int:
        """Return an int; 3.0 is one. Raises ParamError."""
        number = self._number(name, value)
        if number != int(number):
            raise self._expected(name)
        return int(number)


@dataclass(frozen=True)
class Bool(Param):
    """True or false."""

    kind: ClassVar[str] = "bool"
    default: bool

    def check(self, name: str, value: Any) -> bool:
        """Return a bool. Raises ParamError."""
        if not isinstance(value, bool):
            raise ParamError(f"{name}: expected true or false")
        return value


@dataclass(frozen=True)
class Text(Param):
    """A text of at most `max_length` characters."""

    kind: ClassVar[str] = "text"
    default: str = ""
    max_length: int = _MAX_TEXT

    def check(self, name: str, value: Any) -> str:
        """Return a str. Raises ParamError."""
        if not isinstance(value, str) or len(value) > self.max_length:
            raise ParamError(f"{name}: expected a text of at most {self.max_length} characters")
        return value


Options = Sequence[str | tuple[str, str]]


@dataclass(frozen=True)
class Choice(Param):
    """One of several texts.

    `choices` is a sequence of values or of (value, title) pairs, or a mapping from the title of a group to
    such a sequence. Without a `default` the first is it.
    """

    kind: ClassVar[str] = "choice"
    default: str = ""
    choices: Options | Mapping[str, Options] = ()

    def __post_init__(self) -> None:
        if not self.default and self.options():
            object.__setattr__(self, "default", self.options()[0]["value"])

    def options(self) -> list[dict[str, str]]:
        """Return the choices as they go over the wire: `value`, `title` and, where there is one, `group`."""
        groups = self.choices.items() if isinstance(self.choices, Mapping) else [("", self.choices)]
        found = []
        for group, options in groups:
            for option in options:
                value, title = option if isinstance(option, tuple) else (option, option.capitalize())
                found.append({"value": value, "title": title} | ({"group": group} if group else {}))
        return found

    def check(self, name: str, value: Any) -> str:
        """Return one of the values. Raises ParamError."""
        values = [option["value"] for option in self.options()]
        if not isinstance(value, str) or value not in values:
            shown = ", ".join(values[:8]) + (", …" if len(values) > 8 else "")
            raise ParamError(f"{name}: expected one of {shown}")
        return value

    def _extra(self) -> dict[str, Any]:
        return {"choices": self.options()}


class Params(Mapping[str, Any]):
    """The values in force, read as `params["strength"]` or `params.strength`; it never changes."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "_values")
        return values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model declares no parameter {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("parameters are set by the client, not by the model")

    def __iter__(self) -> Iterator[str]:
        values: dict[str, Any] = object.__getattribute__(self, "_values")
        return iter(values)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Params({dict(self)!r})"


def check_declaration(params: Mapping[str, Param]) -> None:
    """Raise ParamError on a name that cannot be an attribute, or a default that its own bounds do not allow."""
    for name, param in params.items():
        if not name.isidentifier() or name.startswith("_") or name in _RESERVED:
            raise ParamError(f"{name!r} cannot be the name of a parameter")
        if not isinstance(param, Param):
            raise ParamError(f"{name}: expected rtcbridge.Float, Int, Bool, Choice or Text")
        param.check(f"{name}, default", param.default)


def defaults(params: Mapping[str, Param]) -> Params:
    """Return the values that a session starts with."""
    return Params({name: param.check(name, param.default) for name, param in params.items()})


def update(params: Mapping[str, Param], current: Params, changes: Any) -> Params:
    """Return `current` with `changes` applied: all of them, or none.

    Raises:
        ParamError: `changes` is no mapping, names what is not declared, or has a value that is not allowed.
    """
    if not isinstance(changes, Mapping):
        raise ParamError("params: expected an object")
    values = dict(current)
    for name, value in changes.items():
        if name not in params:
            raise ParamError(f"{str(name)[:100]}: the model has no such parameter")
        values[name] = params[name].check(name, value)
    return Params(values)
