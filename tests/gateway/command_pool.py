"""A pool of four shell scripts: what they were called for is written down, and files make them fail or wait."""

import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.programs import Home, is_alive, until

NODE = Path(__file__).with_name("fake_node.py")

_SCRIPT = """#!/bin/sh
# Each may be run again for the same node. A file fail-VERB makes it fail, gate-VERB makes it wait.
cd {folder}
verb=$1
echo "$verb $RTCBRIDGE_NODE" >> calls
while [ -e "gate-$verb" ]; do sleep 0.05; done
if [ -e "fail-$verb" ]; then echo "no $verb today" >&2; exit 3; fi
pid=$(cat "$RTCBRIDGE_NODE.pid" 2>/dev/null)
case $verb in
create|start)
    if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
        setsid {program} >> "$RTCBRIDGE_NODE.log" 2>&1 < /dev/null &
        echo $! > "$RTCBRIDGE_NODE.pid"
    fi ;;
stop|destroy)
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null; fi
    rm -f "$RTCBRIDGE_NODE.pid" ;;
esac
exit 0
"""

_CONFIG = """
[sessions]
resume_grace = 30.0
[nodes]
heartbeat = 0.2
missed = 5
[[pools]]
provider = "command"
slots = 1
max_nodes = {max_nodes}
{pool}
[pools.command]
{commands}
"""


class CommandPool:
    """A `Home` whose pool runs the scripts."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.folder

    def allow(self, verb: str) -> None:
        (self.folder / f"fail-{verb}").unlink(missing_ok=True)

    def fail(self, verb: str) -> None:
        (self.folder / f"fail-{verb}").touch()

    def hold(self, verb: str) -> None:
        (self.folder / f"gate-{verb}").touch()

    def release(self, verb: str) -> None:
        (self.folder / f"gate-{verb}").unlink()

    def calls(self) -> list[tuple[str, str]]:
        """What the scripts were called for, in order: the verb and the node."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(line.split()[0], line.split()[1]) for line in lines]

    def counts(self) -> Counter[str]:
        return Counter(verb for verb, _ in self.calls())

    def called(self, verb: str, times: int = 1) -> str:
        """Wait until a script has been called so often, and return the node of its last call."""
        until(lambda: self.counts()[verb] >= times, f"{times} calls of {verb}; there are {self.calls()}")
        return [node for what, node in self.calls() if what == verb][times - 1]

    def pids(self) -> dict[str, int]:
        """The processes that should run, by node."""
        files = {file.stem: file.read_text().strip() for file in self.folder.glob("*.pid")}
        return {node: int(pid) for node, pid in files.items() if pid}

    def running(self) -> list[str]:
        return sorted(node for node, pid in self.pids().items() if is_alive(pid))


@contextmanager
def command_pool(folder: Path, pool: str = "", *, max_nodes: int = 2, program: str = "") -> Iterator[CommandPool]:
    """Make the scripts and the configuration; at the end, end what they started."""
    program = program or shlex.join([sys.executable, str(NODE)])
    script = folder / "machine"
    script.write_text(_SCRIPT.format(folder=shlex.quote(str(folder)), program=program))
    script.chmod(0o700)
    verbs = ("create", "start", "stop", "destroy")
    commands = "\n".join(f"{verb} = '{script} {verb}'" for verb in verbs)
    home = Home(folder, _CONFIG.format(pool=pool, max_nodes=max_nodes, commands=commands))
    made = CommandPool(home)
    try:
        yield made
    finally:
        home.dispose()
        for gate in folder.glob("gate-*"):
            gate.unlink()
        _end(made)


def _end(pool: CommandPool) -> None:
    for pid in pool.pids().values():
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
