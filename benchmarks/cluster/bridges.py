"""What an engine costs a bridge, and the way through a second one: `python -m benchmarks.cluster.bridges`.

Three servers in turn: a bridge that is alone; one that shares its pool through Valkey, with all sockets at it; and two
bridges, the clients' sockets at the one and the nodes' at the other. All of them, and Valkey, are on one core, the
generator on another: so these are costs, and not what two machines can do. Each bridge has a copy of one SQLite store.
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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.cluster.__main__ import valkey
from benchmarks.common.machine import describe, package_version
from benchmarks.common.process import stop
from benchmarks.common.report import replace_section
from benchmarks.relay.measure import Cores, Result, build_generator, run_load
from benchmarks.relay.servers import BRIDGE_CONFIG, RTCBRIDGE, Launch, Server, free_port, make_key, wait_until_listening

SERVERS = ("alone", "shared", "across")
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
def _bridge(directory: Path, port: int, engine: str, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """One bridge, with a copy of the store that has the keys."""
    own = directory / str(port)
    own.mkdir()
    shutil.copy(directory / "bench.db", own)
    config, log = own / "bench.toml", own / "server.log"
    config.write_text(BRIDGE_CONFIG.format(port=port, directory=own), encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(RTCBRIDGE), "serve", "--config", str(config)],
            env={**os.environ, "RTCBRIDGE_ENGINE__URL": engine},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            cwd=own,
        )
    try:
        wait_until_listening(process, port, log)
        yield process
    finally:
        stop(process)


@contextmanager
def _running(name: str, core: int) -> Iterator[Server]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtcbridge-bench-")))
        engine = "memory://"
        if name != "alone":
            engine = f"redis://127.0.0.1:{stack.enter_context(valkey(core))}"
        ports = [free_port() for _ in range(2 if name == "across" else 1)]
        keys = directory / "keys.toml"
        keys.write_text(BRIDGE_CONFIG.format(port=ports[0], directory=directory), encoding="utf-8")
        launch = Launch(
            command=[],
            dialect="bridge",
            credential=make_key(keys, "--project", "TEST01"),
            node_credential=make_key(keys, "--node", "--pool", "default"),
            node_port=ports[-1],
        )
        processes = [stack.enter_context(_bridge(directory, port, engine, core)) for port in ports]
        yield Server(name, launch, ports[0], processes[0])


def _measure(rounds: int, seconds: float, cores: Cores) -> dict[str, dict[str, list[Result]]]:
    found: dict[str, dict[str, list[Result]]] = {load: {name: [] for name in SERVERS} for load in LOADS}
    with ExitStack() as stack:
        servers = [stack.enter_context(_running(name, cores.server)) for name in SERVERS]
        for load, options in LOADS.items():
            timed = {**options, "warmup": f"{seconds / 2}", "seconds": f"{seconds}"}
            for number in range(rounds + 1):
                for server in servers if number % 2 else reversed(servers):
                    result = run_load(server, timed, cores)
                    if number:  # the first round warms them
                        found[load][server.name].append(result)
                        print(f"{load:9} round {number}  {server.name:7} {result}", file=sys.stderr, flush=True)
    return found


def _table(found: dict[str, dict[str, list[Result]]]) -> str:
    lines = ["| | alone | shared, all sockets here | across two bridges |", "|---|---|---|---|"]
    for load, figure, title, unit in ROWS:
        values = {name: [result[figure] for result in results] for name, results in found[load].items()}
        cells = [f"{median(values['alone']):,.0f}{unit}"]
        for name in SERVERS[1:]:
            ratio = median(mine / base for mine, base in zip(values[name], values["alone"], strict=True))
            cells.append(f"{ratio:.2f} × ({median(values[name]):,.0f}{unit})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
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
    table = _table(_measure(options.rounds, options.seconds, Cores(cores[0], cores[1])))
    print(table)
    if not options.no_report:
        command = shlex.join(["python", "-m", "benchmarks.cluster.bridges", *arguments])
        versions = ", ".join(f"{name} {package_version(name)}" for name in ("rtcbridge", "uvloop", "redis"))
        lines = ["## Several bridges", f"`{command}` on {describe()}. {versions}.", str(__doc__).split("\n\n", 1)[1]]
        replace_section("bridges", "\n\n".join([*lines, table]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
