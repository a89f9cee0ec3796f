"""One cell of the table: a server, a scenario, one run of the generator."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.relay.servers import Server

LOADGEN = Path(__file__).resolve().parents[2] / "build" / "benchmarks" / "loadgen"
GENERATOR_TIMEOUT_S = 180
DISTURBED_SHARE = 0.06
SETTLE_STEP_S = 0.5
SETTLE_TIMEOUT_S = 20

Result = dict[str, float]


@dataclass(frozen=True)
class Cores:
    """Which core the servers have, and which the generator."""

    server: int
    generator: int


def build_generator() -> None:
    """Compile the generator if its sources have changed."""
    folder = Path(__file__).parent / "generator"
    subprocess.run(["make", "--silent", "-C", str(folder), f"OUT={LOADGEN}"], check=True)


def _command(server: Server, options: Mapping[str, str]) -> list[str]:
    given = {
        "dialect": server.launch.dialect,
        "port": str(server.port),
        "credential": server.launch.credential,
        "node-credential": server.launch.node_credential,
        "server-pid": str(server.process.pid),
        **({"node-port": str(server.launch.node_port)} if server.launch.node_port else {}),
        **options,
    }
    return [str(LOADGEN), *(part for key, value in given.items() for part in (f"--{key}", value))]


def _start(server: Server, options: Mapping[str, str], core: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command(server, options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def _finish(server: Server, generator: subprocess.Popen[str]) -> str:
    try:
        output, errors = generator.communicate(timeout=GENERATOR_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        generator.kill()
        generator.communicate()
        raise RuntimeError(f"{server.name}: the generator did not finish") from None
    if generator.returncode != 0:
        raise RuntimeError(f"{server.name}: {errors.strip()}")
    return output


def _busy_seconds(core: int) -> tuple[float, float]:
    """What a core has been busy, and what of it was stolen by the host."""
    times = psutil.cpu_times(percpu=True)[core]
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice, times.steal


def run_load(server: Server, options: Mapping[str, str], cores: Cores) -> Result:
    """Run the generator once.

    The result gains `cpu_us`, the server's CPU time a message or set-up in µs, and `others`, the larger
    share of the two cores that went to other programs, or to the host, while the generator ran.

    Raises:
        RuntimeError: the generator gave up; its one line says why.
    """
    process = psutil.Process(server.process.pid)
    before, began = process.cpu_times(), time.monotonic()
    core_before = {core: _busy_seconds(core) for core in (cores.server, cores.generator)}
    children_before = os.times()
    result: Result = json.loads(_finish(server, _start(server, options, cores.generator)))
    seconds = time.monotonic() - began
    children, after = os.times(), process.cpu_times()
    own = {
        cores.server: after.user + after.system - before.user - before.system,
        cores.generator: children.children_user
        + children.children_system
        - children_before.children_user
        - children_before.children_system,
    }
    result["cpu_us"] = result["server_load"] / result["rate"] * 1e6
    others = (_busy_seconds(core)[0] - core_before[core][0] - own[core] for core in own)
    return {**result, "others": max(0.0, *others) / seconds}


def is_disturbed(result: Result) -> bool:
    """Whether other programs had so much of the two cores that the run should be repeated."""
    return result["others"] > DISTURBED_SHARE


def _private_kb(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 1024


def _settled_kb(process: psutil.Process) -> float:
    """The server's memory (PSS, its children's included), in KB, once it has stopped changing."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    last = _private_kb(process)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_STEP_S)
        now = _private_kb(process)
        if abs(now - last) < 0.002 * last:
            return now
        last = now
    return last


def run_idle(server: Server, options: Mapping[str, str], cores: Cores) -> Result:
    """Measure the memory of idle authenticated connections, in KB each.

    What the server allocates once, on its first sessions, is not charged to the connections: some
    sessions are set up and closed before the first reading.
    """
    process = psutil.Process(server.process.pid)
    warm = {"scenario": "setups", "clients": "32", "nodes": "1", "capacity": "64", "warmup": "0", "seconds": "1"}
    _finish(server, _start(server, warm, cores.generator))
    before = _settled_kb(process)
    generator = _start(server, options, cores.generator)
    assert generator.stdout is not None
    if not generator.stdout.readline():
        _finish(server, generator)
        raise RuntimeError(f"{server.name}: the generator gave up without a reason")
    after = _settled_kb(process)
    _finish(server, generator)
    return {"kb": (after - before) / float(options["clients"]), "before_kb": before, "after_kb": after}
