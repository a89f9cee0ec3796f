"""What `rtcbridge top` draws: one snapshot of a bridge, as large as the terminal is."""

import time
from collections.abc import Sequence

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rtcbridge.cli.table import plain, span
from rtcbridge.core.messages import SESSION_ID_LENGTH
from rtcbridge.gateway.views import BridgeView, NodeView, PoolView, SessionView

BAR = 20
"""Columns of a pool's bar."""

_PARTS = (("█", "green"), ("░", "cyan"), ("▒", "yellow"), ("·", "dim"))  # in use, free, coming, stopped
_WIDE = 80  # columns from which the ids of sessions are shown whole
_CALM = ("ready", "stopped")
_FRAME = 9  # lines that are always there: the head's three, three headings, two gaps, and the foot


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a bridge had at one time. `nodes` and `sessions` may be the first of many."""

    url: str
    bridge: BridgeView
    pools: Sequence[PoolView]
    nodes: Sequence[NodeView]
    sessions: Sequence[SessionView]


class Screen:
    """Draws a snapshot.

    Args:
        snapshot: What is shown.
        message: What is wrong, or has happened; one line.
        height: Lines that it must fit; None for as many as it takes.
    """

    def __init__(self, snapshot: Snapshot, message: str = "", height: int | None = None) -> None:
        self._snapshot = snapshot
        self._message = message
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what is drawn."""
        snapshot, now = self._snapshot, self._snapshot.bridge.now  # by the bridge's clock: ours may be another
        pools, notes = list(snapshot.pools), [note for pool in snapshot.pools for note in _notes(pool)]
        nodes, sessions = _by_interest(snapshot.nodes), list(snapshot.sessions)
        most = (len(pools) + len(notes), len(nodes), len(sessions))
        if self._height is not None:
            most = _share(self._height - _FRAME, most)
        parts: list[RenderableType] = [
            *self._head(),
            _pool_table(pools[: most[0]], len(pools), now),
            *notes[: max(0, most[0] - len(pools))],
            Text(),
            _node_table(nodes[: most[1]], snapshot.bridge.nodes, now),
            Text(),
            _session_table(sessions[: most[2]], snapshot.bridge.sessions, now, options.max_width),
        ]
        if self._height is not None:
            parts.append(_foot())
        yield Group(*parts)

    def _head(self) -> tuple[Text, Text, Text]:
        snapshot, bridge = self._snapshot, self._snapshot.bridge
        waiting, starts = sum(pool.waiting for pool in snapshot.pools), sum(pool.starts for pool in snapshot.pools)
        up, now = span(bridge.now - bridge.started), time.strftime("%H:%M:%S")
        return (
            _line(f"rtcbridge {bridge.version} at {snapshot.url}, up {up}, {now}", "bold"),
            _line(
                f"{bridge.clients} clients, {bridge.sessions} sessions, {waiting} in line, {bridge.nodes} nodes; "
                f"{starts} starts in the last minute"
            ),
            _line(self._message, "bold red"),
        )


def _foot() -> Text:
    foot = _line("q leaves", "dim")
    for (sign, style), name in zip(_PARTS, ("in use", "free", "coming", "stopped"), strict=True):
        foot.append(f"   {sign}", style).append(f" {name}", "dim")
    return foot


def _share(lines: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """Divide lines among three tables: each gets a third, and what one leaves goes to the others."""
    given = [0, 0, 0]
    for _ in range(max(0, lines)):
        short = [index for index in range(3) if given[index] < wanted[index]]
        if not short:
            break
        given[min(short, key=lambda index: given[index])] += 1
    return given[0], given[1], given[2]


def _table(*columns: tuple[str, bool]) -> Table:
    """An unruled table. Columns: the heading, and whether it is of numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading, numeric in columns:
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    if not columns[-1][1]:  # a last column of words gives way to all others
        table.expand, table.columns[-1].ratio = True, 1
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(plain(text), style, no_wrap=True, overflow="ellipsis")


def _cell(value: object, style: str = "") -> Text:
    return Text(plain(value), style)


# --- pools ---


def _notes(pool: PoolView) -> list[Text]:
    """A line for each thing of a pool that is out of the ordinary."""
    notes = []
    if pool.breaker:
        notes.append(_line(f"{pool.name}: {pool.breaker}", "red"))
    if pool.overrides:
        values = ", ".join(f"{name} {each.value:g} ({each.config:g})" for name, each in pool.overrides.items())
        notes.append(_line(f"{pool.name}: changed: {values}", "dim"))
    return notes


def _pool_table(pools: Sequence[PoolView], total: int, now: float) -> Table:
    table = _table(
        (_count("POOL", len(pools), total), False), ("SLOTS", False), ("USED", True), ("FREE", True), ("COMING", True),
        ("STOPPED", True), ("LINE", True), ("OLDEST", True), ("ETA", True), ("/MIN", True),
    )  # fmt: skip
    for pool in pools:
        table.add_row(
            _cell(pool.name),
            bar(pool),
            *map(_cell, (pool.sessions, pool.free, pool.coming, pool.stopped, pool.waiting)),
            _cell("" if pool.waiting_since is None else span(now - pool.waiting_since)),
            _cell("" if pool.eta is None else span(pool.eta)),
            _cell(pool.starts),
        )
    return table


def bar(pool: PoolView) -> Text:
    """The slots of a pool in `BAR` columns: in use, free, coming, stopped; what it may yet make stays empty."""
    slots = (pool.sessions, pool.free, pool.coming, pool.stopped)
    room = 0 if pool.max_nodes is None else pool.max_nodes * pool.slots
    total = max(sum(slots), room, 1)
    text = Text("[")
    used, seen = 0, 0
    for count, (sign, style) in zip(slots, _PARTS, strict=True):
        seen += count
        end = max(used + (count > 0), round(seen * BAR / total))  # what there is has a column at least
        text.append(sign * (min(end, BAR) - used), style)
        used = min(end, BAR)
    return text.append(" " * (BAR - used) + "]")


# --- nodes and sessions ---


def _by_interest(nodes: Sequence[NodeView]) -> list[NodeView]:
    """Those in which something is going on first, then the fullest."""
    return sorted(nodes, key=lambda node: (node.state in _CALM, node.state == "stopped", -node.sessions, node.id))


def _node_table(nodes: Sequence[NodeView], total: int, now: float) -> Table:
    table = _table(
        (_count("NODE", len(nodes), total), False), ("POOL", False), ("STATE", False), ("FOR", True), ("SLOTS", True),
        ("LOAD", True), ("REASON", False),
    )  # fmt: skip
    for node in nodes:
        away = node.state == "ready" and not node.linked
        style = "red" if node.state in ("failed", "lost") or away else "" if node.state in _CALM else "yellow"
        table.add_row(
            _cell(node.id),
            _cell(node.pool),
            _cell("away" if away else node.state, style),
            _cell(span(now - node.since)),
            _cell(f"{node.sessions}/{node.capacity}"),
            _cell("" if node.load is None else f"{node.load:.0%}"),
            _cell(node.reason),
        )
    return table


def _session_table(sessions: Sequence[SessionView], total: int, now: float, width: int) -> Table:
    table = _table(
        (_count("NEWEST SESSION", len(sessions), total), False), ("PROJECT", False), ("POOL", False), ("STATE", False),
        ("FOR", True), ("PLACE", True), ("ETA", True), ("NODE", False),
    )  # fmt: skip
    if width >= _WIDE:
        table.columns[0].min_width = SESSION_ID_LENGTH  # it is what `rtcbridge sessions end` wants
    for session in sessions:
        table.add_row(
            _cell(session.id),
            _cell(session.project),
            _cell(session.pool),
            _cell(session.state, "yellow" if session.position is not None else ""),
            _cell(span(now - session.since)),
            _cell("" if session.position is None else session.position),
            _cell("" if session.eta is None else span(session.eta)),
            _cell(session.node),
        )
    return table


def _count(heading: str, shown: int, total: int) -> str:
    return heading if shown >= total else f"{heading} ({shown} of {total})"
