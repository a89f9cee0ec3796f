"""What the script answers, as what `Store` returns."""

from collections.abc import Sequence
from typing import Any

from rtcbridge.ports_engine import NodeView, Place, PoolView, SessionView


def pairs(flat: Sequence[bytes]) -> list[tuple[str, str]]:
    """Two by two."""
    text = [each.decode() for each in flat]
    return list(zip(text[::2], text[1::2], strict=True))


def places(supply: int, cause: str, flat: Sequence[bytes]) -> dict[str, Place]:
    """The places of sessions, told as session, place, and whether it is barred."""
    each = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return {session.decode(): Place(int(place), supply, cause, barred == b"1") for session, place, barred in each}


def session_view(session: str, record: str, replica: str) -> SessionView:
    """A slot, by its record; `replica` has the node's socket."""
    node, epoch, live, _, _, _, owner, _ = record.split("|")
    return SessionView(session, node, int(epoch), replica, owner, live == "1")


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


def pool_view(parts: Sequence[Any]) -> PoolView:
    """The pool as the script `look` tells it. What is done for each session is what this costs."""
    records, info = pairs(parts[0]), dict(pairs(parts[1]))
    by_node: dict[str, list[str]] = {node: [] for node, _ in records}
    replica_at = {node: _replica(record) for node, record in records}
    sessions = {}
    for session, record in pairs(parts[2]):
        node, epoch, live, _, _, _, owner, _ = record.split("|")
        by_node[node].append(session)
        sessions[session] = SessionView(session, node, int(epoch), replica_at[node], owner, live == "1")
    return PoolView(
        nodes={node: _node_view(node, record, info.get(node, ""), by_node[node]) for node, record in records},
        sessions=sessions,
        line=[each.decode() for each in parts[3]],
        away=sorted(each.decode() for each in parts[4]),
        replicas=sorted(each.decode().partition("|")[0] for each in parts[5]),
        leader=parts[6].decode().partition("|")[0],
        supply=int(parts[7]),
        recovering=int(parts[8]) / 1000,
        excluding=dict(pairs(parts[9])),
        version=parts[10].decode(),
    )
