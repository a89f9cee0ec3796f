"""What an engine costs a bridge, and the way through a second one: `python -m benchmarks.cluster.bridges`.

Servers in turn: a bridge that is alone; one that shares its pool through Valkey, with all sockets at it; and two
bridges, the clients' sockets at the one and the nodes' at the other. All of them, and Valkey, are on one core, the
generator on another: so these are costs, and not what two machines can do. Only the latency is measured once more with
two bridges and Valkey where the system puts them, on both cores. The last row is one bridge and its generator on one
core, against two bridges, each with its own pool and its own generator on a core of its own, and Valkey beside the
first. Each bridge has a copy of one SQLite store.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.cluster.__main__ import valkey
from benchmarks.common.machine import describe, package_version
from benchmarks.common.process import stop
from benchmarks.common.report import replace_section
from benchmarks.relay.measure import Cores, Result, build_generator, run_load
from benchmarks.relay.servers import BRIDGE_CONFIG, RTCBRIDGE, Launch, Server, free_port, make_key, wait_until_listening

_CONFIG = f"""{BRIDGE_CONFIG}projects = ["TEST01"]

[[pools]]
name = "second"
provider = "static"
slots = 1000
projects = ["TEST02"]
"""
PINNED = ("alone", "shared", "across")
SERVERS = (*PINNED, "spread")
LOADS = {
    "pipelined": {"scenario": "messages", "clients": "500", "window": "4", "size": "253", "nodes": "8"},
    "setups": {"scenario": "setups", "clients": "64", "nodes": "8", "capacity": "64"},
    "latency": {"scenario": "latency", "clients": "500", "nodes": "8", "size": "253", "rate": "2000"},
}
ROWS = (
    ("pipelined", "rate", "253-byte messages a second, 500 clients × 4 under way", "/s"),
    ("setups", "rate", "session set-ups a second, 64 at a time", "/s"),
    ("latency", "p50_us", "latency p50 at 2,000 messages a second", " µs"),
    ("latency", "p99_us", "latency p99 at 2,000 messages a second", " µs"),
)


@contextmanager
def _bridge(directory: Path, port: int, engine: str, cores: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    """One bridge, with a copy of the store that has the keys."""
    own = directory / str(port)
    own.mkdir()
    shutil.copy(directory / "bench.db", own)
    config, log = own / "bench.toml", own / "server.log"
    config.write_text(_CONFIG.format(port=port, directory=own), encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(RTCBRIDGE), "serve", "--config", str(config)],
            env={**os.environ, "RTCBRIDGE_ENGINE__URL": engine},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            cwd=own,
        )
    try:
        wait_until_listening(process, port, log)
        yield process
    finally:
        stop(process)


def _launch(keys: Path, project: str, pool: str, node_port: int) -> Launch:
    client, node = make_key(keys, "--project", project), make_key(keys, "--node", "--pool", pool)
    return Launch(command=[], dialect="bridge", credential=client, node_credential=node, node_port=node_port)


@contextmanager
def _running(name: str, cores: Sequence[set[int]]) -> Iterator[list[Server]]:
    """The bridges: the first has the clients, the last the nodes. One for each of `cores`; Valkey is with the first."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtcbridge-bench-")))
        engine = "memory://"
        if name != "alone":
            engine = f"redis://127.0.0.1:{stack.enter_context(valkey(cores[0]))}"
        ports = [free_port() for _ in cores]
        keys = directory / "keys.toml"
        keys.write_text(_CONFIG.format(port=ports[0], directory=directory), encoding="utf-8")
        launch = _launch(keys, "TEST01", "default", ports[-1])
        second = _launch(keys, "TEST02", "second", ports[-1])
        processes = [
            stack.enter_context(_bridge(directory, port, engine, its)) for port, its in zip(ports, cores, strict=True)
        ]
        servers = [Server(name, launch, port, process) for port, process in zip(ports, processes, strict=True)]
        if name == "pair":  # each with all sockets of a pool of its own
            servers[0] = replace(servers[0], launch=replace(launch, node_port=ports[0]))
            servers[1] = replace(servers[1], launch=second)
        yield servers


def _measure(rounds: int, seconds: float, cores: Cores) -> dict[str, dict[str, list[Result]]]:
    found: dict[str, dict[str, list[Result]]] = {load: {name: [] for name in SERVERS} for load in LOADS}
    one, both = {cores.server}, {cores.server, cores.generator}
    where = {"alone": [one], "shared": [one], "across": [one, one], "spread": [both, both]}
    with ExitStack() as stack:
        servers = [stack.enter_context(_running(name, where[name]))[0] for name in SERVERS]
        for load, options in LOADS.items():
            timed = {**options, "warmup": f"{seconds / 2}", "seconds": f"{seconds}"}
            those = servers if load == "latency" else servers[: len(PINNED)]
            for number in range(rounds + 1):
                for server in those if number % 2 else reversed(those):
                    result = run_load(server, timed, cores)
                    if number:  # the first round warms them
                        found[load][server.name].append(result)
                        print(f"{load:9} round {number}  {server.name:7} {result}", file=sys.stderr, flush=True)
    return found


def _scale(rounds: int, seconds: float, cores: Cores) -> list[tuple[float, float]]:
    """Messages a second of one bridge with its generator on one core, and of two on two."""
    options = {**LOADS["pipelined"], "warmup": f"{seconds / 2}", "seconds": f"{seconds}"}
    here, there = cores.server, cores.generator
    found = []
    with ExitStack() as stack:
        single = stack.enter_context(_running("shared", [{here}]))
        pair = stack.enter_context(_running("pair", [{here}, {there}]))
        for number in range(rounds + 1):
            alone = run_load(single[0], options, Cores(here, here))["rate"]
            with ThreadPoolExecutor(2) as pool:
                both = [{**options, "pool": name} for name in ("default", "second")]
                results = pool.map(run_load, pair, both, (Cores(here, here), Cores(there, there)))
                together = sum(result["rate"] for result in results)
            if number:
                found.append((alone, together))
                print(f"scaling   round {number}  {alone:.0f} {together:.0f}", file=sys.stderr, flush=True)
    return found


def _table(found: dict[str, dict[str, list[Result]]], scaled: list[tuple[float, float]]) -> str:
    lines = ["| | alone | shared, all sockets here | across two bridges | … on both cores |", "|---|---|---|---|---|"]
    for load, figure, title, unit in ROWS:
        values = {name: [result[figure] for result in results] for name, results in found[load].items()}
        cells = [f"{median(values['alone']):,.0f}{unit}"]
        for name in SERVERS[1:]:
            if not values[name]:
                cells.append("")
                continue
            ratio = median(mine / base for mine, base in zip(values[name], values["alone"], strict=True))
            cells.append(f"{ratio:.2f} × ({median(values[name]):,.0f}{unit})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    alone, together = (median(rates) for rates in zip(*scaled, strict=True))
    ratio = median(two / (2 * one) for one, two in scaled)
    what = "messages a second of one bridge and generator on one core; of two on two, against twice that"
    lines.append(f"| {what} | | {alone:,.0f}/s | {ratio:.2f} × ({together:,.0f}/s) | |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the report's section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster.bridges", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--no-report", action="store_true", help="print only, leave docs/ as it is")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the benchmark needs two cores, one for the servers and one for the generator")
    build_generator()
    where = Cores(cores[0], cores[1])
    scaled = _scale(options.rounds, options.seconds, where)
    table = _table(_measure(options.rounds, options.seconds, where), scaled)
    print(table)
    if not options.no_report:
        command = shlex.join(["python", "-m", "benchmarks.cluster.bridges", *arguments])
        versions = ", ".join(f"{name} {package_version(name)}" for name in ("rtcbridge", "uvloop", "redis"))
        lines = ["## Several bridges", f"`{command}` on {describe()}. {versions}.", str(__doc__).split("\n\n", 1)[1]]
        replace_section("bridges", "\n\n".join([*lines, table]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
