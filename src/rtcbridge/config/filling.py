"""How a table of a TOML file becomes a struct, and what an error says of a value that does not fit."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect

_SECRET = re.compile(r"(?i)(credential|password|secret|token)\Z")  # keys whose value an error does not show
_S = TypeVar("_S", bound=Struct)


class ConfigError(Exception):
    """A mistake in the configuration; its text is one line: source, key, what was expected."""


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def fill(cls: type[_S], table: object, prefix: str) -> _S:
    """Make a struct of a TOML table; `prefix` and a key together name that key in an error.

    Of the tables of a list, a struct may make itself, by a class method `from_table` with the same arguments.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{prefix.rstrip('.: ')}: expected a table, got {shown(table)}")
    fields = {field.name: field.type for field in msgspec.structs.fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: no such key; {hint(key, fields)}")
        values[key] = convert(value, inspect.type_info(fields[key]), fields[key], prefix + key)
    for field in msgspec.structs.fields(cls):
        if field.required and field.name not in values:
            raise ConfigError(f"{prefix}{field.name}: expected {expected(inspect.type_info(field.type))}, got nothing")
    return cls(**values)


def convert(value: Any, info: inspect.Type, kind: Any, where: str) -> Any:
    """Check one value against the type of its key, and go down into tables."""
    if isinstance(info, inspect.StructType):
        return fill(info.cls, value, f"{where}.")
    if isinstance(info, inspect.VarTupleType) and isinstance(info.item_type, inspect.StructType):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list of tables, got {shown(value)}")
        cls = info.item_type.cls
        make = getattr(cls, "from_table", partial(fill, cls))
        return tuple(make(item, _item(where, index, item)) for index, item in enumerate(value))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise ConfigError(f"{where}: expected {expected(info)}{_got(value, where)}") from None


def _got(value: object, where: str) -> str:
    """What was found instead, without what may be a password."""
    if _SECRET.search(where):
        return ""
    if isinstance(value, str) and where.lower().endswith(("store.url", "store__url", "engine.url", "engine__url")):
        scheme, rest = re.findall(r"(?s)\A([a-z]*:?//)?(.*)", value.partition("?")[0])[0]
        value = scheme + ("…" if re.search("[:@]", rest) else rest)
    return f", got {shown(value)}"


def _item(where: str, index: int, item: object) -> str:
    """The prefix of the keys of one table of a list: a pool goes by its name."""
    if not where.endswith(": pools"):
        return f"{where}[{index}]."
    name = item.get("name", "default") if isinstance(item, dict) else index + 1
    return f"{where.removesuffix('pools')}[[pools]] {shown(name)}: "


def expected(info: inspect.Type) -> str:
    """What a key takes, in words."""
    match info:
        case inspect.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(gt=None, ge=low, le=high):
            return f"a number from {low:.15g} to {high:.15g}"
        case inspect.FloatType(le=high):
            return f"a number above 0, at most {high:.15g}"
        case inspect.UnionType(types=kinds):
            return expected(next(kind for kind in kinds if not isinstance(kind, inspect.NoneType)))
        case inspect.BoolType():
            return "true or false"
        case inspect.DictType():
            return "a table"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(str(value) or repr(value) for value in values)}"
        case inspect.VarTupleType(item_type=item):
            return f"a list, each of it {expected(item)}"
        case _:
            return "a text"


def shown(value: object) -> str:
    """A value as an error shows it: short, on one line."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def hint(key: str, known: Iterable[str]) -> str:
    """What may have been meant by an unknown key."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
