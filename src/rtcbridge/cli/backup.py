"""`rtcbridge backup`: a copy of the SQLite store, also while a bridge runs on it."""

import argparse
import sys
from pathlib import Path

from rtcbridge import config
from rtcbridge.cli import CommandError, Subparsers, add_command, add_config


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "backup", _backup, "copy the SQLite store, also while a bridge runs on it")
    parser.add_argument("file", metavar="FILE", type=Path, help="the copy; it must not exist")
    add_config(parser)


def _backup(args: argparse.Namespace) -> int:
    from rtcbridge.drivers.ledger.sqlite import back_up

    store = config.load(args.config).store.path
    if store is None:
        raise CommandError("the store is in PostgreSQL: use its own pg_dump, which copies it while bridges run")
    back_up(store, args.file)
    print(f"Copied {store.absolute()} to {args.file.absolute()}; keep it as secret as the store.", file=sys.stderr)
    return 0
