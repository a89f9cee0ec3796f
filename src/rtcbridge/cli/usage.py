"""`rtcbridge usage`: the seconds of each project in a period, for a bill."""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from rtcbridge import config
from rtcbridge.cli import Subparsers, UsageError, add_command, add_config
from rtcbridge.cli.table import add_json, show
from rtcbridge.drivers.ledger import open_store
from rtcbridge.drivers.ledger.usage import Usage, usage

_DIGITS = 6  # of a second: what a time in a ledger is good for


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "usage", _usage, "add up the sessions and seconds of each project in a period")
    parser.add_argument("--project", type=_project, help="only this one")
    when = "a day such as 2026-01-31, or a moment such as 2026-01-31T18:00+01:00, or Unix seconds"
    parser.add_argument("--since", type=_moment, default=0.0, help=f"{when}; default: the beginning")
    parser.add_argument("--until", type=_moment, help="the same, not itself included; default: now")
    formats = parser.add_mutually_exclusive_group()
    add_json(formats)
    formats.add_argument("--csv", action="store_true", help="print CSV with a header")
    add_config(parser)


def _project(text: str) -> str:
    from rtcbridge.drivers.ledger.key_maker import PROJECT

    if not PROJECT.match(text):
        raise argparse.ArgumentTypeError(f"expects six characters A-Z 0-9, got {text!r}")
    return text


def _moment(text: str) -> float:
    """A day or moment without a zone is one of this machine's."""
    try:
        if text.replace(".", "", 1).isdigit() and text.isascii() and len(text) > 8:
            return float(text)
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"expects a day such as 2026-01-31, a moment such as 2026-01-31T18:00, or Unix seconds, got {text!r}"
        ) from None


def _usage(args: argparse.Namespace) -> int:
    now = time.time()
    until = now if args.until is None else args.until
    if args.since >= until:
        raise UsageError("--since expects a moment before --until, and not in the future")
    with open_store(config.load(args.config).store.url) as store:
        found = usage(store, args.since, min(until, now), project=args.project or "")
    rows = [
        Usage(project=row.project, sessions=row.sessions, open=row.open, seconds=round(row.seconds, _DIGITS))
        for row in found
    ]
    if args.csv:
        _write_csv(rows)
        return 0
    show(
        rows,
        {
            "PROJECT": lambda row: row.project,
            "SESSIONS": lambda row: row.sessions,
            "OPEN": lambda row: row.open,
            "SECONDS": lambda row: f"{row.seconds:.3f}",
        },
        as_json=args.json,
    )
    return 0


def _write_csv(rows: Sequence[Usage]) -> None:
    names = Usage.__struct_fields__
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
