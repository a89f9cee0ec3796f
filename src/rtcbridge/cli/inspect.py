"""`rtcbridge nodes`, `sessions` and `pools`: what is there, and what may be done to it.

They ask the bridge that runs. Where none does, the lists say what its store has.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtcbridge import config
from rtcbridge.cli import CommandError, Parser, Subparsers, UsageError, add_command, offline, record
from rtcbridge.cli.api import Api, add_api, find, path
from rtcbridge.cli.table import add_json, moment, show, span
from rtcbridge.gateway.views import NodeView, PoolView, SessionView

_NODE_ACTIONS = {
    "drain": "give a node no new session, and stop it when its last has ended",
    "stop": "stop a node now; its clients go to the front of the line",
    "start": "start a stopped node",
    "destroy": "remove a node's machine now, with its disk; its clients go to the front of the line",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the three commands."""
    _add_nodes(add_command(subparsers, "nodes", _nodes, "list the nodes, or drain, stop, start or destroy one"))
    _add_sessions(
        add_command(subparsers, "sessions", _sessions, "list the open sessions, or the latest of all; end one")
    )
    _add_pools(add_command(subparsers, "pools", _pools, "list the pools, or change settings of one"))


def _add_nodes(parser: Parser) -> None:
    parser.add_argument("--pool", help="only those of this pool")
    actions = _actions(parser)
    for name, text in _NODE_ACTIONS.items():
        action = _add_action(actions, name, _act, text)
        action.add_argument("id", metavar="NODE")


def _add_sessions(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help="ended ones too, newest first; from the store")
    parser.add_argument("--limit", type=_limit, default=100, help="with --all: how many (default 100)")
    parser.add_argument("--csv", action="store_true", help="every ended one as CSV, oldest first, for `simulate`")
    parser.add_argument("--pool", help="with --csv: only those of this pool")
    end = _add_action(_actions(parser), "end", _end, "end a session: its client is told, its slot is free")
    end.add_argument("id", metavar="SESSION")
    end.add_argument("--reason", default="", help="for the record and for the node's log; at most 200 characters")


def _add_pools(parser: Parser) -> None:
    actions = _actions(parser)
    change = _add_action(
        actions, "set", _set, "change settings of a pool; they outlive the bridge until they are reset"
    )
    change.add_argument("pool", metavar="POOL")
    for name in config.RUN_TIME_SETTINGS:
        change.add_argument(f"--{name.replace('_', '-')}", type=_number, metavar="N", help=f"{name} of the pool")
    reset = _add_action(actions, "reset", _reset, "let settings of a pool be again what the configuration says")
    reset.add_argument("pool", metavar="POOL")
    reset.add_argument("settings", metavar="SETTING", nargs="*", type=_setting, help="such as max_nodes; none: all")


def _actions(parser: Parser) -> Subparsers:
    _add_common(parser)
    actions: Subparsers = parser.add_subparsers(dest="action", metavar="ACTION", required=False)
    return actions


def _add_action(actions: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
    action = add_command(actions, name, run, text)
    _add_common(action, argparse.SUPPRESS)
    return action


def _add_common(parser: Parser, default: Any = None) -> None:
    add_json(parser, default or False)
    add_api(parser, default)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expects a whole number from 1 to 1000000, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"expects a number, got {text!r}")
    return float(text) if "." in text else int(text)


def _setting(text: str) -> str:
    name = text.replace("-", "_")
    if name not in config.RUN_TIME_SETTINGS:
        raise argparse.ArgumentTypeError(f"expects one of {', '.join(config.RUN_TIME_SETTINGS)}, got {text!r}")
    return name


def _bridge(args: argparse.Namespace) -> Api | None:
    """The bridge that a command line names, or None where the store is all that there is. Raises as `find`."""
    return find(args, lambda: config.load(args.config))


def _running(args: argparse.Namespace) -> Api:
    """The bridge that is to do something. Raises CommandError if none runs."""
    if (api := _bridge(args)) is None:
        raise CommandError("no bridge runs on this store, and it takes one to act; see --config and --url")
    return api


def _from_store(args: argparse.Namespace, show_rows: Callable[[config.Config, argparse.Namespace], None]) -> int:
    show_rows(config.load(args.config), args)
    print(f"{args.prog}: no bridge runs on this store; the list is what it says", file=sys.stderr)
    return 0


# --- nodes ---


def _nodes(args: argparse.Namespace) -> int:
    if (api := _bridge(args)) is None:
        return _from_store(args, offline.nodes)
    with api:
        _show_nodes(list(api.every("/nodes", NodeView, pool=args.pool)), args)
    return 0


def _act(args: argparse.Namespace) -> int:
    with _running(args) as api:
        _show_nodes([api.post(path("nodes", args.id, args.action), NodeView)], args)
    return 0


def _show_nodes(rows: Sequence[NodeView], args: argparse.Namespace) -> None:
    now = time.time()
    show(
        rows,
        {
            "NODE": lambda row: row.id,
            "POOL": lambda row: row.pool,
            "STATE": lambda row: row.state if row.linked or row.state != "ready" else "ready, away",
            "FOR": lambda row: span(now - row.since),
            "LEFT": lambda row: "" if row.deadline is None else span(row.deadline - now),
            "SESSIONS": lambda row: f"{row.sessions}/{row.capacity}",
            "LOAD": lambda row: "" if row.load is None else f"{row.load:.0%}",
            "MADE BY": lambda row: "provider" if row.managed else "hand",
            "REASON": lambda row: row.reason,
        },
        as_json=args.json,
    )


# --- sessions ---


def _sessions(args: argparse.Namespace) -> int:
    if args.csv:
        if args.url:
            raise UsageError("--csv reads the store, and --url names a bridge")
        record.export(config.load(args.config).store, args.pool)
        return 0
    if args.pool is not None:
        raise UsageError("--pool expects --csv beside it")
    if args.all:
        if args.url:
            raise UsageError("--all reads the store of this machine, and --url names a bridge")
        offline.sessions(config.load(args.config), args)
        return 0
    if (api := _bridge(args)) is None:
        return _from_store(args, offline.sessions)
    with api:
        _show_sessions(list(api.every("/sessions", SessionView)), args)
    return 0


def _end(args: argparse.Namespace) -> int:
    with _running(args) as api:
        _show_sessions([api.post(path("sessions", args.id, "end"), SessionView, {"reason": args.reason})], args)
    return 0


def _show_sessions(rows: Sequence[SessionView], args: argparse.Namespace) -> None:
    now = time.time()
    show(
        rows,
        {
            "SESSION": lambda row: row.id,
            "POOL": lambda row: row.pool,
            "NODE": lambda row: row.node,
            "PROJECT": lambda row: row.project,
            "STATE": lambda row: row.state,
            "SINCE": lambda row: moment(row.since),
            "FOR": lambda row: span(now - row.since),
            "PLACE": lambda row: "" if row.position is None else row.position,
            "ETA": lambda row: "" if row.eta is None else span(row.eta),
        },
        as_json=args.json,
    )


# --- pools ---


def _pools(args: argparse.Namespace) -> int:
    if (api := _bridge(args)) is None:
        return _from_store(args, offline.pools)
    with api:
        _show_pools(list(api.every("/pools", PoolView)), args)
    return 0


def _set(args: argparse.Namespace) -> int:
    given = {name: value for name in config.RUN_TIME_SETTINGS if (value := getattr(args, name)) is not None}
    if not given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in config.RUN_TIME_SETTINGS)
        raise UsageError(f"expected at least one of {options}")
    return _change(args, given)


def _reset(args: argparse.Namespace) -> int:
    return _change(args, dict.fromkeys(args.settings or config.RUN_TIME_SETTINGS))


def _change(args: argparse.Namespace, changes: Mapping[str, object]) -> int:
    with _running(args) as api:
        _show_pools([api.patch(path("pools", args.pool), PoolView, changes)], args)
    return 0


def _show_pools(rows: Sequence[PoolView], args: argparse.Namespace) -> None:
    show(
        rows,
        {
            **offline.POOL_COLUMNS,
            "FREE": lambda row: row.free,
            "LINE": lambda row: row.waiting,
            "ETA": lambda row: "" if row.eta is None else span(row.eta),
            "CHANGED": lambda row: ", ".join(
                f"{name} {entry.value:g} (configured {entry.config:g})" for name, entry in row.overrides.items()
            ),
            "HELD UP": lambda row: row.breaker or "",
        },
        as_json=args.json,
    )
