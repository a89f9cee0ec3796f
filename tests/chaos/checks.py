"""What must be so when all faults are over and everybody has gone, and the figures of a run."""

import asyncio
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

import redis

from chaos.oracle import Of, Oracle
from chaos.parts import wait_for
from chaos.wire import Ended, Wire
from chaos.world import POOL, World
from rtcbridge.drivers.ledger import open_store
from rtcbridge.drivers.ledger.ledger import LedgerReader
from rtcbridge.drivers.ledger.usage import usage

BOTH = 5.0  # seconds: the death of a bridge and a loss of the engine's data this close are one fault of two parts


@dataclass(frozen=True)
class Books:
    """The store against the truth: sessions and their seconds.

    Attributes:
        sessions: in the ledger.
        unknown: that a node served and the ledger has not, with when they began and how they ended there.
        open: in the ledger, without an end.
        twice: in the ledger more than once.
        backwards: that ended before they began.
        ledger, nodes: seconds of the sessions whose begin and end both a node saw, by the one and by the other.
        whole: how many these are.
        worst: the largest difference of one of them.
        clients: the difference of one of them on average, by the ledger and by its client: from the slot to the end.
        usage: what `rtcbridge usage` says: sessions and seconds.
    """

    sessions: int
    unknown: dict[str, tuple[float, str]]
    open: int
    twice: int
    backwards: int
    ledger: float
    nodes: float
    whole: int
    worst: float
    clients: float
    usage: tuple[int, float]
    seconds: float


def be_quiet(world: World) -> None:
    """Let the clients come to their end, and wait until nothing is held any more: nodes, engine, ledger."""
    world.oracle.phase = Oracle.QUIET
    for crowd in world.clients:
        wait_for(lambda crowd=crowd: not crowd.runs, "the end of the clients")  # type: ignore[misc]
        assert crowd.process is not None
        assert crowd.process.returncode == 0, (world.folder / "crowds.log").read_text()[-3000:]
    world.wait_nodes()
    wait_for(lambda: world.of_nodes[Of.NOW] == 0, "the end of all sessions at the nodes")
    wait_for(lambda: not held(world), "all slots free in the engine")
    with open_store(world.store) as database:
        reader = LedgerReader(database)
        wait_for(lambda: not reader.open_sessions(), "the end of all sessions in the ledger")


def held(world: World) -> dict[str, int]:
    """What the engine says is held: slots, places in line, sessions for the ledger."""
    with closing(redis.Redis(port=world.engine.port)) as engine:
        prefix = f"rtcbridge:{{{POOL}}}:"
        slots = sum(int(engine.scard(key)) for key in engine.scan_iter(f"{prefix}node:*"))  # type: ignore[arg-type]
        journal = sum(int(engine.exists(f"{prefix}{key}")) for key in ("journal", "ended", "maybe"))  # type: ignore[arg-type]
        sessions, line = int(engine.hlen(f"{prefix}sessions")), int(engine.zcard(f"{prefix}line"))  # type: ignore[arg-type]
    all_ = {"slots": slots, "sessions": sessions, "line": line, "journal": journal}
    return {name: n for name, n in all_.items() if n}


def books(world: World) -> Books:
    """Compare the ledger with what nodes have noted."""
    began, ended, why = {}, {}, {}
    for line in world.logs["nodes"].read_text().splitlines():
        what, session, _, when, *more = line.split()
        (began if what == "+" else ended)[session] = float(when)
        why[session] = " ".join(more[1:])
    with open_store(world.store) as database:
        reader = LedgerReader(database)
        all_rows = [*reader.ended_sessions(), *reader.open_sessions()]
        rows = {row.id: row for row in all_rows}
        used = usage(database, 0.0, time.time() + 100_000.0)
    over = {id: row for id, row in rows.items() if row.ended is not None}
    whole = list(began.keys() & ended.keys() & over.keys())
    of_ledger = {id: (over[id].ended or 0.0) - over[id].started for id in whole}
    of_nodes = {id: ended[id] - began[id] for id in whole}
    seen = {}
    for line in world.logs["clients"].read_text().splitlines():
        session, begun, until, *_ = line.split()
        seen[session] = float(until) - float(begun)
    by_both = [of_ledger[id] - seen[id] for id in whole if id in seen]
    return Books(
        sessions=len(rows),
        unknown={id: (began[id], why[id]) for id in began.keys() - rows.keys()},
        open=len(rows) - len(over),
        twice=len(all_rows) - len(rows),
        backwards=sum((row.ended or 0.0) < row.started for row in over.values()),
        ledger=sum(of_ledger.values()),
        nodes=sum(of_nodes.values()),
        whole=len(whole),
        clients=sum(by_both) / max(1, len(by_both)),
        worst=max((abs(of_ledger[id] - of_nodes[id]) for id in whole), default=0.0),
        usage=(sum(each.sessions for each in used), sum(each.seconds for each in used)),
        seconds=sum(max(0.0, (row.ended or 0.0) - row.started) for row in over.values()),
    )


def check_nothing_is_wrong(world: World) -> Books:
    """What holds whatever has happened. Raises AssertionError."""
    nodes, clients, messages = world.of_nodes, world.of_clients, world.of_messages
    assert nodes[Of.ACCEPTED_OVER] == 0
    assert all(world.oracle.row(row)[Of.PEAK] <= world.size.capacity for row in world.node_rows)
    assert clients[Of.STUCK] == 0
    assert clients[Of.FOREIGN] == clients[Of.TWICE] == messages[Of.TWICE] == 0, (clients, messages)
    found = books(world)
    # The journal of what a bridge has not written yet is in the engine: who loses both, or is killed while it cannot
    # be reached, loses a session.
    both = [kill for kill in world.kills for loss in world.losses if abs(kill - loss) < BOTH]
    for began, _ in found.unknown.values():
        assert any(0 <= kill - began < BOTH for kill in both), found
    assert not found.open, found
    assert not found.twice, found
    assert found.usage[0] == found.sessions
    assert abs(found.usage[1] - found.seconds) < 0.001 * found.sessions + 0.1
    return found


async def fill(world: World) -> None:
    """Take every slot that there is, at once; who looks on must have to wait."""
    links = world.urls(world.from_clients)
    total = world.count * world.size.capacity
    wires = [await Wire.dial(f"{links[number % len(links)]}/client") for number in range(total + 1)]
    try:
        for wire in wires[:-1]:
            _ask(world, wire)
        await asyncio.gather(*[_status(wire, "waiting") for wire in wires[:-1]])
        _ask(world, wires[-1])
        await _status(wires[-1], "full")
    finally:
        for wire in wires:
            wire.close()


def _ask(world: World, wire: Wire) -> None:
    wire.send(type="CREDENTIAL", payload={"credential": world.key})
    wire.send(type="session_start")


async def _status(wire: Wire, status: str) -> None:
    while not isinstance(message := await wire.next(30.0), Ended):
        if message == {"type": "node_status", "status": status}:
            return
    raise AssertionError(f"closed with {message.code} before it was {status}")


async def until_served(world: World, since: float) -> float:
    """Seconds from a moment of the monotonic clock until a client that came after it has its answer.

    A new one comes ten times a second, to one replica after the other, as long as none has been served.
    """
    served: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    tries: set[asyncio.Task[None]] = set()
    urls = world.urls(world.from_clients)

    async def attempt(url: str) -> None:
        wire = None
        try:
            wire = await Wire.dial(f"{url}/client")
            wire.send(type="CREDENTIAL", payload={"credential": world.probe_key})
            wire.send(type="session_start")
            while not isinstance(message := await wire.next(), Ended):
                if message == {"type": "node_status", "status": "waiting"}:
                    wire.send(type="offer", sdp="probe")
                if message["type"] == "answer" and not served.done():
                    served.set_result(time.monotonic() - since)
                    return
        except OSError:
            pass
        finally:
            if wire is not None:
                wire.close()

    try:
        for number in range(600):
            tries.add(asyncio.create_task(attempt(urls[number % len(urls)])))
            done, _ = await asyncio.wait([served], timeout=0.1)
            if done:
                return served.result()
        raise AssertionError("nobody was served for a minute")
    finally:
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)


def messages_lost(world: World) -> Counter[str]:
    """Compare what both ends noted of each session that came to a proper end, or lost its client's socket only.

    Returns:
        How many sessions there were, by how the client's part ended, and how many candidates lacked each way.
    """
    from chaos.nodes import ALL, FIRST

    got = {}
    for line in world.logs["nodes"].read_text().splitlines():
        if line.startswith("- "):
            _, session, _, _, number, *why = line.split()
            got[session] = int(number), " ".join(why)
    found: Counter[str] = Counter()
    for line in world.logs["clients"].read_text().splitlines():
        session, _, _, heard, how, *_ = line.split()
        if session == "?":
            found[how] += 1
            continue
        number, why = got[session]
        found[how] += 1
        if why == "unknown" and how in ("closing", "LIVE_CUT"):
            continue  # the client went while its node was on the way to another replica
        found["lost to nodes"] += ALL - number
        found["lost to clients"] += max(0, (ALL if how == "finished" else FIRST) - int(heard))
        if how == "LIVE_CUT" and why != "closed":
            found["ended with its socket"] += 1
    return found
