"""What is done to the parts of a world, one thing at a time or two."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final, NamedTuple

import redis

from chaos.parts import Link, Program, Replica, wait_for
from chaos.world import POOL, World

PAUSED: Final = 2.5  # seconds that a way stands still: longer than a replica's lease
AWAY: Final = 1.5  # … that the engine or the store does
NODES_FROZEN: Final = 3.5  # … that nodes do: longer than three heartbeats


class Fault(NamedTuple):
    """Something to be done. `back` is the moment from which all should be as before, of the monotonic clock."""

    name: str
    do: Callable[[World, random.Random], float]

    def clashes(self, other: "Fault") -> bool:
        """Whether both cannot be done to the same server at once."""
        return any(part in self.name and part in other.name for part in ("the engine", "the store"))


def _pause(program: Program, seconds: float) -> float:
    program.freeze()
    time.sleep(seconds)
    program.thaw()
    return time.monotonic()


def kill_replica(world: World, chance: random.Random) -> float:
    """`kill -9`; what counts is how soon the others serve."""
    return _kill(world, [chance.choice(world.replicas)])


def kill_two_replicas(world: World, chance: random.Random) -> float:
    """The same to two at once: the last one has it all."""
    return _kill(world, chance.sample(world.replicas, 2))


def _kill(world: World, replicas: list[Replica]) -> float:
    for replica in replicas:
        world.kills.append(time.time())
        replica.kill()
    return time.monotonic()


def start_replicas(world: World) -> None:
    """Start those that do not run."""
    gone = [replica for replica in world.replicas if not replica.runs]
    for replica in gone:
        replica.start()
    for replica in gone:
        replica.wait_ready()


def freeze_replica(world: World, chance: random.Random) -> float:
    """Until the others have taken it for dead."""
    there = len(leases(world))
    replica = chance.choice([replica for replica in world.replicas if replica.runs])
    replica.freeze()
    wait_for(lambda: len(leases(world)) < there, "the end of its lease")
    replica.thaw()
    return time.monotonic()


def leases(world: World) -> list[bytes]:
    """Those replicas that count as alive; none while the engine has no data."""
    with closing(redis.Redis(port=world.engine.port)) as engine:
        return list(engine.zrange(f"rtcbridge:{{{POOL}}}:replicas", 0, -1))  # type: ignore[arg-type]


def kill_engine(world: World, chance: random.Random) -> float:
    """It comes back empty."""
    world.losses.append(time.time())
    world.engine.kill()
    world.engine.start()
    return time.monotonic()


def freeze_engine(world: World, chance: random.Random) -> float:
    """Connections stay, and nobody answers."""
    process = world.engine.process
    assert process is not None
    world.losses.append(time.time())
    process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY)
    process.send_signal(signal.SIGCONT)
    return time.monotonic()


def wipe_engine(world: World, chance: random.Random) -> float:
    """All data go, and connections stay."""
    world.losses.append(time.time())
    with closing(redis.Redis(port=world.engine.port)) as engine:
        engine.flushall()
    return time.monotonic()


def kill_store(world: World, chance: random.Random) -> float:
    """As a power cut does."""
    world.postgres.kill()
    world.postgres.start()
    return time.monotonic()


def freeze_store(world: World, chance: random.Random) -> float:
    """Connections stay, and nobody answers."""
    with world.postgres.frozen():
        time.sleep(AWAY)
    return time.monotonic()


def kill_unwritten(world: World, chance: random.Random) -> float:
    """A replica with sessions that it could not write down yet."""
    with world.postgres.frozen():
        time.sleep(AWAY)
        _kill(world, [chance.choice(world.replicas)])
    return time.monotonic()


def kill_nodes(world: World, chance: random.Random) -> float:
    """All nodes of one process, with their sessions; they boot at once."""
    program = chance.choice(world.nodes)
    program.kill()
    moment = time.monotonic()
    program.start()
    return moment


def freeze_nodes(world: World, chance: random.Random) -> float:
    """All nodes of one process, until they are taken for lost."""
    return _pause(chance.choice(world.nodes), NODES_FROZEN)


def _ways(name: str) -> Callable[[World], list[Link]]:
    return lambda world: getattr(world, name)  # type: ignore[no-any-return]


def pause(name: str, seconds: float) -> Callable[[World, random.Random], float]:
    """The network stands still between one replica and what is named."""

    def do(world: World, chance: random.Random) -> float:
        if name == "to_engine":
            world.losses.append(time.time())
        return _pause(chance.choice(_ways(name)(world)), seconds)

    return do


def cut(name: str) -> Callable[[World, random.Random], float]:
    """All connections are reset between one replica and what is named."""

    def do(world: World, chance: random.Random) -> float:
        if name == "to_engine":
            world.losses.append(time.time())
        chance.choice(_ways(name)(world)).cut()
        return time.monotonic()

    return do


FAULTS: Final = (
    Fault("a replica is killed", kill_replica),
    Fault("two of three replicas are killed", kill_two_replicas),
    Fault("a replica freezes beyond its lease", freeze_replica),
    Fault("the engine is killed, and comes back empty", kill_engine),
    Fault("the engine freezes", freeze_engine),
    Fault("the engine's data are wiped", wipe_engine),
    Fault("the store is killed", kill_store),
    Fault("the store freezes", freeze_store),
    Fault("a replica is killed while the store stands still", kill_unwritten),
    Fault("a third of the nodes is killed", kill_nodes),
    Fault("a third of the nodes freezes", freeze_nodes),
    Fault("network: a replica and the engine, paused", pause("to_engine", PAUSED)),
    Fault("network: a replica and the engine, cut", cut("to_engine")),
    Fault("network: a replica and the store, paused", pause("to_store", PAUSED)),
    Fault("network: a replica and the store, cut", cut("to_store")),
    Fault("network: nodes and a replica, paused", pause("from_nodes", PAUSED)),
    Fault("network: nodes and a replica, cut", cut("from_nodes")),
    Fault("network: clients and a replica, paused", pause("from_clients", PAUSED)),
    Fault("network: clients and a replica, cut", cut("from_clients")),
)


async def at_once(world: World, faults: Sequence[Fault], chance: random.Random) -> float:
    """Let several happen at once; return when the last was over."""
    return max(await asyncio.gather(*[asyncio.to_thread(fault.do, world, chance) for fault in faults]))
