"""What the store says is there, running bridge or not: nodes, sessions and pools.

A session is recorded within a tenth of a second, a node before anything is done to it.
"""

import argparse
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rtcbridge import config
from rtcbridge.cli import UsageError
from rtcbridge.cli.table import moment, show, span
from rtcbridge.drivers.ledger import LedgerReader, open_store
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


# Of a pool as the store has it, and the first ones of a pool as a running bridge shows it.
POOL_COLUMNS: Mapping[str, Callable[[Any], object]] = {
    "POOL": lambda row: row.name,
    "PROVIDER": lambda row: row.provider,
    "SLOTS A NODE": lambda row: row.slots,
    "MIN READY": lambda row: row.min_ready,
    "NODES": lambda row: f"{sum(row.nodes.values())}/{'-' if row.max_nodes is None else row.max_nodes}",
    "STATES": lambda row: ", ".join(f"{count} {state}" for state, count in sorted(row.nodes.items())),
    "SESSIONS": lambda row: row.sessions,
}


def _read(settings: config.Config) -> tuple[list[NodeRow], list[SessionRow]]:
    with open_store(settings.store.url) as store:
        ledger = LedgerReader(store)
        return list(ledger.nodes()), list(ledger.open_sessions())


def _in_force(settings: config.Config) -> list[config.Pool]:
    """The pools as a bridge would take them up: with what was changed at run time, if it still fits."""
    with open_store(settings.store.url) as store:
        changed = {row.pool: row.settings for row in LedgerReader(store).overrides()}
    pools = []
    for pool in settings.pools:
        with contextlib.suppress(config.ConfigError):
            pool = config.override(pool, json.loads(changed.get(pool.name, "{}")))
        pools.append(pool)
    return pools


def nodes(settings: config.Config, args: argparse.Namespace) -> None:
    """Show the nodes."""
    stored, open_sessions = _read(settings)
    known = [pool.name for pool in settings.pools] + [node.pool for node in stored]
    if args.pool is not None and args.pool not in known:
        raise UsageError(f"--pool expects one of {', '.join(dict.fromkeys(known))}, got {args.pool!r}")
    counts = Counter(session.node for session in open_sessions)
    rows = [
        _Node(**msgspec.structs.asdict(node), sessions=counts[node.id])
        for node in stored
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


def sessions(settings: config.Config, args: argparse.Namespace) -> None:
    """Show the sessions."""
    with open_store(settings.store.url) as store:
        ledger = LedgerReader(store)
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


def pools(settings: config.Config, args: argparse.Namespace) -> None:
    """Show the pools."""
    stored, open_sessions = _read(settings)
    rows = [
        _Pool(
            name=pool.name,
            provider=pool.provider,
            slots=pool.slots,
            min_ready=pool.min_ready,
            max_nodes=None if pool.provider == "static" else pool.max_nodes,
            nodes=dict(Counter(node.state for node in stored if node.pool == pool.name)),
            sessions=sum(session.pool == pool.name for session in open_sessions),
        )
        for pool in _in_force(settings)
    ]
    show(rows, POOL_COLUMNS, as_json=args.json)
