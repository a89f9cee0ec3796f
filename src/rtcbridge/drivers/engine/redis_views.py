"""What the script answers, as what `Store` returns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rtcbridge.ports_engine import NodeView, Place, PoolView, SessionView
from rtcbridge.ports_journal import Journaled

_FIELDS = 9  # a session's id and its record have


def pairs(flat: Sequence[bytes]) -> list[tuple[str, str]]:
    """Two by two."""
    text = [each.decode() for each in flat]
    return list(zip(text[::2], text[1::2], strict=True))


def journaled(flat: Sequence[bytes]) -> list[Journaled]:
    """Entries of the journal: session, node, project, when it began and ended in ms, and why."""
    text = [each.decode() for each in flat]
    return [
        Journaled(session, node, project, int(began) / 1000, int(ended) / 1000, why)
        for session, node, project, began, ended, why in zip(*[iter(text)] * 6, strict=True)
    ]


def places(supply: int, cause: str, flat: Sequence[bytes]) -> dict[str, Place]:
    """The places of sessions, told as session, place, and whether it is barred."""
    each = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return {session.decode(): Place(int(place), supply, cause, barred == b"1") for session, place, barred in each}


def session_view(session: str, record: str, replica: str) -> SessionView:
    """A slot, by its record; `replica` has the node's socket."""
    node, epoch, live, _, project, _, owner, _ = record.split("|")
    return SessionView(session, node, int(epoch), replica, owner, live == "1", project)


def _node_view(node: str, record: str, info: str, sessions: Sequence[str]) -> NodeView:
    capacity, epoch, is_open, replica, _, socket = record.split("|")
    return NodeView(
        id=node,
        capacity=int(capacity),
        epoch=int(epoch),
        open=is_open == "1",
        replica=replica if socket else "",
        socket=socket,
        info=info,
        sessions=sorted(sessions),
    )


def _replica(record: str) -> str:
    """The replica with the socket of a node, by the node's record."""
    _, _, _, replica, _, socket = record.split("|")
    return replica if socket else ""


def _session_views(flat: Sequence[bytes], replica_at: Mapping[str, str]) -> dict[str, SessionView]:
    """All slots, by their records: column by column, since this is what `look` costs."""
    fields = b"|".join(flat).decode().split("|") if flat else []
    ids, nodes, epochs, lives, projects, owners = (fields[at::_FIELDS] for at in (0, 1, 2, 3, 5, 7))
    where = map(replica_at.__getitem__, nodes)
    views = map(SessionView, ids, nodes, map(int, epochs), where, owners, map("1".__eq__, lives), projects)
    return dict(zip(ids, views, strict=True))


def pool_view(parts: Sequence[Any]) -> PoolView:
    """The pool as the script `look` tells it."""
    records, info = pairs(parts[0]), dict(pairs(parts[1]))
    by_node: dict[str, list[str]] = {node: [] for node, _ in records}
    sessions = _session_views(parts[2], {node: _replica(record) for node, record in records})
    for session in sessions.values():
        by_node[session.node].append(session.id)
    return PoolView(
        nodes={node: _node_view(node, record, info.get(node, ""), by_node[node]) for node, record in records},
        sessions=sessions,
        line=[each.decode() for each in parts[3]],
        away=sorted(each.decode() for each in parts[4]),
        replicas=sorted(each.decode().partition("|")[0] for each in parts[5]),
        leader=parts[6].decode().partition("|")[0],
        supply=max(0, int(parts[7])),
        recovering=int(parts[8]) / 1000,
        excluding=dict(pairs(parts[9])),
        version=parts[10].decode(),
    )
