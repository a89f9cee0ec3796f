"""`rtcbridge nodes`, `sessions` and `pools`: what the store says is there.

They read the store beside the bridge, running or not. A session is recorded within milliseconds, a node
before anything is done to it.
"""

import argparse
import time
from collections import Counter

import msgspec

from rtcbridge import config
from rtcbridge.cli import Subparsers, UsageError, add_command, add_config, record
from rtcbridge.cli.table import add_json, moment, show, span
from rtcbridge.drivers.ledger import Database, LedgerReader
from rtcbridge.ports import NodeRow, SessionRow


class _Node(NodeRow, frozen=True, kw_only=True):
    sessions: int


class _Pool(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    provider: str
    slots: int
    min_ready: int
    max_nodes: int | None  # None: a static pool has no such bound
    nodes: dict[str, int]  # how many are in each state
    sessions: int


def add_parser(subparsers: Subparsers) -> None:
    """Add the three commands."""
    nodes = add_command(subparsers, "nodes", _nodes, "list the nodes, with their states and sessions")
    nodes.add_argument("--pool", help="only those of this pool")
    sessions = add_command(subparsers, "sessions", _sessions, "list the open sessions, or the latest of all")
    sessions.add_argument("--all", action="store_true", help="ended ones too, newest first")
    sessions.add_argument("--csv", action="store_true", help="every ended one as CSV, oldest first, for `simulate`")
    sessions.add_argument("--pool", help="with --csv: only those of this pool")
    sessions.add_argument("--limit", type=_limit, default=100, help="with --all: how many (default 100)")
    pools = add_command(subparsers, "pools", _pools, "list the pools, with their nodes and sessions")
    for parser in (nodes, sessions, pools):
        add_json(parser)
        add_config(parser)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expects a whole number from 1 to 1000000, got {text!r}")
    return int(text)


def _read(settings: config.Config) -> tuple[list[NodeRow], list[SessionRow]]:
    with Database(settings.store.path) as database:
        ledger = LedgerReader(database)
        return list(ledger.nodes()), list(ledger.open_sessions())


def _nodes(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    nodes, sessions = _read(settings)
    known = [pool.name for pool in settings.pools] + [node.pool for node in nodes]
    if args.pool is not None and args.pool not in known:
        raise UsageError(f"--pool expects one of {', '.join(dict.fromkeys(known))}, got {args.pool!r}")
    counts = Counter(session.node for session in sessions)
    rows = [
        _Node(**msgspec.structs.asdict(node), sessions=counts[node.id])
        for node in nodes
        if args.pool in (None, node.pool)
    ]
    now = time.time()
    show(
        rows,
        {
            "NODE": lambda row: row.id,
            "POOL": lambda row: row.pool,
            "STATE": lambda row: row.state,
            "FOR": lambda row: span(now - row.since),
            "SESSIONS": lambda row: f"{row.sessions}/{row.capacity}",
            "MADE BY": lambda row: "provider" if row.managed else "hand",
            "REASON": lambda row: row.reason,
        },
        as_json=args.json,
    )
    return 0


def _sessions(args: argparse.Namespace) -> int:
    if args.csv:
        record.export(config.load(args.config).store.path, args.pool)
        return 0
    with Database(config.load(args.config).store.path) as database:
        ledger = LedgerReader(database)
        rows = ledger.sessions(args.limit) if args.all else ledger.open_sessions()
    now = time.time()
    show(
        rows,
        {
            "SESSION": lambda row: row.id,
            "POOL": lambda row: row.pool,
            "NODE": lambda row: row.node,
            "PROJECT": lambda row: row.project,
            "STARTED": lambda row: moment(row.started),
            "LASTED": lambda row: span((row.ended or now) - row.started),
            "END": lambda row: "" if row.ended is None else row.reason or "ended",
        },
        as_json=args.json,
    )
    return 0


def _pools(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    nodes, sessions = _read(settings)
    rows = [
        _Pool(
            name=pool.name,
            provider=pool.provider,
            slots=pool.slots,
            min_ready=pool.min_ready,
            max_nodes=None if pool.provider == "static" else pool.max_nodes,
            nodes=dict(Counter(node.state for node in nodes if node.pool == pool.name)),
            sessions=sum(session.pool == pool.name for session in sessions),
        )
        for pool in settings.pools
    ]
    show(
        rows,
        {
            "POOL": lambda row: row.name,
            "PROVIDER": lambda row: row.provider,
            "SLOTS A NODE": lambda row: row.slots,
            "MIN READY": lambda row: row.min_ready,
            "NODES": lambda row: f"{sum(row.nodes.values())}/{'-' if row.max_nodes is None else row.max_nodes}",
            "STATES": lambda row: ", ".join(f"{count} {state}" for state, count in sorted(row.nodes.items())),
            "SESSIONS": lambda row: row.sessions,
        },
        as_json=args.json,
    )
    return 0
