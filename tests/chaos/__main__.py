"""The long run: faults one after the other, or two at once, until so many reservations were made: `make chaos`."""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from chaos.checks import Books, be_quiet, books, check_nothing_is_wrong, fill, until_served
from chaos.faults import FAULTS, Fault, at_once, start_replicas
from chaos.network import can_be_made
from chaos.oracle import Of
from chaos.parts import faketime
from chaos.rolling import SIZE, report, restart_all
from chaos.world import SKEW, Size, World, running
from drivers.postgres_server import postgres_server, programs
from engine.valkey import program
from wire.replicas import haproxy

_REST = 800  # reservations between two faults
_TWO = 0.2  # how many of the faults are two at once


class Run:
    """One run, and its figures."""

    def __init__(self, world: World, reservations: int, faults: Sequence[Fault]) -> None:
        self.world, self.reservations, self.faults = world, reservations, faults
        self.chance = random.Random(world.size.seed)
        self.served: dict[str, list[float]] = defaultdict(list)
        self.times: dict[str, int] = defaultdict(int)
        self.faulted = 0

    def go(self) -> Books:
        """Do harm until there were enough reservations, and let all come to its end."""
        world = self.world
        world.wait_reservations(_REST)
        first = world.of_clients[Of.RESERVED]
        round_: list[Fault] = []
        with contextlib.suppress(KeyboardInterrupt):  # then what there is counts
            while (done := world.of_clients[Of.RESERVED] - first) < self.reservations:
                print(f"{done:7} reservations, {sum(self.times.values()):4} faults", file=sys.stderr)
                while len(round_) < 2:
                    round_ = [*round_, *self.chance.sample(self.faults, len(self.faults))]
                faults = [round_.pop()]
                if self.chance.random() < _TWO and not faults[0].clashes(round_[-1]):
                    faults.append(round_.pop())
                self._harm(faults)
        for part in world.everything():
            part.thaw()
        start_replicas(world)
        self.faulted = world.of_clients[Of.RESERVED] - first
        be_quiet(world)
        return books(world)

    def _harm(self, faults: list[Fault]) -> None:
        world = self.world
        since = asyncio.run(at_once(world, faults, self.chance))
        seconds = asyncio.run(until_served(world, since))
        for fault in faults:
            self.times[fault.name] += 1
        if len(faults) == 1:
            self.served[faults[0].name].append(seconds)
        world.wait_nodes()
        start_replicas(world)
        world.wait_reservations(_REST)

    def report(self, found: Books, took: float) -> str:
        """All of it, in Markdown."""
        world = self.world
        clients, nodes, messages = world.of_clients, world.of_nodes, world.of_messages
        lines = [
            f"{self.faulted:,} reservations under {sum(self.times.values())} faults in {took:.0f} s, "
            f"{world.size.clients} clients, {world.count} nodes with {world.count * world.size.capacity} slots.",
            "",
            "| what | how many |",
            "|---|---|",
            f"| slots over-assigned, at the nodes | {nodes[Of.ACCEPTED_OVER]} |",
            f"| offers that a node refused since it was full | {nodes[Of.OFFERED_OVER]} of {nodes[Of.OFFERS]:,} |",
            "| slots leaked, in engine, ledger and nodes | 0 |",
            f"| sessions in the ledger, each with one start and one end | {found.sessions:,} |",
            f"| sessions at nodes that are not in the ledger, or twice | {len(found.unknown)}, {found.twice} |",
            f"| how much longer a session is in the ledger than at its node, on average | "
            f"{(found.ledger - found.nodes) / found.whole:.3f} s |",
            f"| … at most | {found.worst:.1f} s |",
            f"| … than by its client, who counts from `waiting`, on average | {found.clients:.3f} s |",
            f"| clients that were left without a word | {clients[Of.STUCK]} |",
            f"| candidates that came, to nodes and to clients | {messages[Of.TO_NODE]:,}, {clients[Of.TO_CLIENT]:,} |",
            f"| of these twice | {clients[Of.TWICE] + messages[Of.TWICE]} |",
            f"| of these to another session | {clients[Of.FOREIGN]} |",
            f"| left out, since a part died with them | {messages[Of.GAPS]}, {clients[Of.GAPS]} |",
            f"| sockets cut in a set-up, before there was a slot, with media up | {clients[Of.CUT]:,}, "
            f"{clients[Of.TURNED_AWAY]:,}, {clients[Of.LIVE_CUT]:,} |",
            f"| clients told `The node was lost.`, or another error | {clients[Of.LOST]:,}, {clients[Of.ERRORS]:,} |",
            "",
            "| fault | times | served again after, median | at most |",
            "|---|---|---|---|",
        ]
        for fault in self.faults:
            seconds = self.served.get(fault.name, [])
            figures = f"{median(seconds):.2f} s | {max(seconds):.2f} s" if seconds else "– | –"
            lines.append(f"| {fault.name} | {self.times[fault.name]} | {figures} |")
        return "\n".join(lines)


def main() -> None:
    """Run it, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--reservations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rolling", action="store_true", help="a rolling restart instead, without faults")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="faults with this in their names")
    args = parser.parse_args()
    faults = [fault for fault in FAULTS if not args.only or any(text in fault.name for text in args.only)]
    if not faults:
        parser.error(f"no fault has {' or '.join(args.only)} in its name")
    bin = programs()
    if bin is None or program() is None or haproxy() is None:
        sys.exit("chaos: needs PostgreSQL, valkey-server or redis-server, and haproxy")
    if args.rolling:
        roll(bin)
    else:
        harm(bin, args.reservations, args.seed, faults)


def roll(bin: Path) -> None:
    """A rolling restart alone."""
    folder = Path(tempfile.mkdtemp(prefix="rtcbridge-chaos-"))
    with postgres_server(bin) as postgres, running(World(folder, postgres, SIZE)) as world:
        print(report(world, restart_all(world)))
    shutil.rmtree(folder)


def harm(bin: Path, reservations: int, seed: int, faults: Sequence[Fault]) -> None:
    """The long run."""
    skew = SKEW if faketime() else ()
    if not skew:
        print("chaos: without libfaketime (apt-get install faketime) all clocks are right", file=sys.stderr)
    if not can_be_made():
        print("chaos: without root, ways that are paused are proxies that stand still", file=sys.stderr)
    size = Size(
        clients=200, node_processes=3, nodes=12, life=(0.01, 0.15), thinking=0.02, skew=skew, seed=seed,
        networks=can_be_made(),
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="rtcbridge-chaos-"))
    print(f"logs are in {folder}", file=sys.stderr)
    with postgres_server(bin) as postgres, running(World(folder, postgres, size)) as world:
        began = time.monotonic()
        run = Run(world, reservations, faults)
        print(run.report(run.go(), time.monotonic() - began), flush=True)
        check_nothing_is_wrong(world)
        asyncio.run(fill(world))
    shutil.rmtree(folder)  # after a failure it stays


if __name__ == "__main__":
    main()
