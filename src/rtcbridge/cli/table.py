"""What the listing commands print: an aligned table, or JSON."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

_Row = TypeVar("_Row", bound=msgspec.Struct)


def add_json(parser: "argparse._ActionsContainer", default: Any = False) -> None:
    """Add `--json`. `default`: `argparse.SUPPRESS` for a command below another that has it too."""
    parser.add_argument("--json", action="store_true", default=default, help="print a JSON list, times in Unix seconds")


def show(rows: Sequence[_Row], columns: Mapping[str, Callable[[_Row], object]], *, as_json: bool) -> None:
    """Print rows on stdout: whole as JSON, or the named columns as a table.

    Nodes choose some of the texts themselves, so what a terminal could take for a command is left out.
    """
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    cells = [list(columns), *([plain(column(row)) for column in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not rows:
        print("(none)", file=sys.stderr)


def moment(seconds: float | None) -> str:
    """A time as people of this machine's time zone write it; nothing for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def span(seconds: float) -> str:
    """A duration in its two largest units, such as `3m 20s`."""
    whole = max(0, int(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def plain(value: object) -> str:
    """The text of a value without what a terminal could take for a command."""
    return "".join(character if character.isprintable() else "�" for character in str(value))
