"""Run the relay benchmark: `python -m benchmarks.relay`."""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from json import loads

from benchmarks.common.machine import describe, package_version, program_version
from benchmarks.common.report import replace_section
from benchmarks.relay.measure import Cores, Result, build_generator, is_disturbed, run_idle, run_load
from benchmarks.relay.scenarios import SCENARIOS, Scenario
from benchmarks.relay.servers import LAUNCHERS, PEERS, Server, running
from benchmarks.relay.table import Row, markdown, summarise

ATTEMPTS = 3
NEEDED_FILES = 12_000

EXPLANATION = """\
Servers share one core, the generator has the other; rounds alternate between the servers, and each ratio is the
median of the ratios of single rounds. A message is one that the server has relayed, in either direction. Latency
is timed from the instant at which the message was due. While connections are being opened, as in the row of set-ups,
the bridge lets its writes wait for more, for a few turns of its loop; in the other rows nothing waits."""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; docs/ is left as it is")
    parser.add_argument("--rounds", type=int, help="how often each server is measured (default 7, quick 3)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 2, quick 1)")
    parser.add_argument("--servers", nargs="+", choices=[*LAUNCHERS], default=[*LAUNCHERS], metavar="SERVER")
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names, metavar="SCENARIO")
    parser.add_argument("--no-report", action="store_true", help="print only, leave docs/ as it is")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    return options


def _prepare() -> Cores:
    """Check what the machine must have, build the generator, install the peers."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the benchmark needs two cores, one for the servers and one for the generator")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED_FILES:
        sys.exit(f"the benchmark needs {NEEDED_FILES} open files, the limit is {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    build_generator()
    if not (PEERS / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=PEERS, check=True)
    return Cores(server=cores[0], generator=cores[1])


def _undisturbed(server: Server, load: dict[str, str], cores: Cores) -> Result:
    """The first run that other programs left alone, or else the one that they disturbed least."""
    results: list[Result] = []
    while len(results) < ATTEMPTS and not (results and not is_disturbed(results[-1])):
        results.append(run_load(server, load, cores))
    return min(results, key=lambda result: result["others"])


def _load_rounds(scenario: Scenario, options: argparse.Namespace, cores: Cores) -> dict[str, list[Result]]:
    """All servers are up, the idle ones cost nothing; short measurements alternate between them."""
    rounds: dict[str, list[Result]] = {server: [] for server in options.servers}
    load = {**scenario.options, "warmup": f"{options.seconds / 2}", "seconds": f"{options.seconds}"}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(name, cores.server)) for name in options.servers]
        for number in range(options.rounds + 1):
            for server in servers if number % 2 else reversed(servers):
                result = _undisturbed(server, load, cores)
                if number > 0:  # the first round warms the servers
                    rounds[server.name].append(result)
                    _progress(scenario.name, number, server.name, result)
    return rounds


def _idle_rounds(scenario: Scenario, options: argparse.Namespace, cores: Cores) -> dict[str, list[Result]]:
    """Each measurement has a fresh server: memory that an earlier one has freed would hide what a connection needs."""
    rounds: dict[str, list[Result]] = {server: [] for server in options.servers}
    for number in range(1, (options.rounds + 1) // 2 + 1):
        for name in options.servers:
            with running(name, cores.server) as server:
                rounds[name].append(run_idle(server, scenario.options, cores))
            _progress(scenario.name, number, name, rounds[name][-1])
    return rounds


def _progress(scenario: str, number: int, server: str, result: Result) -> None:
    figures = "  ".join(f"{key} {value:,.2f}" for key, value in result.items())
    print(f"{scenario:9} round {number}  {server:10} {figures}", file=sys.stderr, flush=True)


def _measure(options: argparse.Namespace, cores: Cores) -> Iterator[Row]:
    chosen = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    for _load, group in groupby(chosen, key=lambda scenario: scenario.options):
        rows = list(group)  # figures of the same load come from the same runs
        rounds = (_idle_rounds if rows[0].name == "idle" else _load_rounds)(rows[0], options, cores)
        yield from (summarise(scenario, rounds) for scenario in rows)


def _versions() -> str:
    installed = loads((PEERS / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    parts = [f"{name} {package_version(name)}" for name in ("rtcbridge", "uvloop", "msgspec")]
    parts += [f"Python {sys.version.split()[0]}", f"Node {program_version('node', '--version')}"]
    parts += [f"{name} {installed[f'node_modules/{name}']['version']}" for name in ("ws", "peer")]
    return ", ".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the report's section; 1 when the bridge missed a target."""
    options = _parse(arguments)
    cores = _prepare()
    rows = list(_measure(options, cores))
    table = markdown(rows, options.servers)
    print(table)
    if not (options.quick or options.no_report):
        command = shlex.join(["python", "-m", "benchmarks.relay", *arguments])
        lines = ["## Relay", f"`{command}` on {describe()}. {_versions()}.", EXPLANATION, table]
        replace_section("relay", "\n\n".join(lines))
    return 1 if any(row.reached is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
