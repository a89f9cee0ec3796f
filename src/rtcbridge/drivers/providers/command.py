"""Nodes by four shell commands, and a fifth that lists them: any cloud that has a command line."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from typing import BinaryIO

from rtcbridge.config import CommandOptions
from rtcbridge.ports import Launch, Machine, ProviderError, liveliest

_TAIL = 400  # bytes of a command's output that an error shows
_MOST_OUTPUT = 16 << 20  # bytes; a command that writes more is killed
_CHECK_EVERY = 0.5  # seconds
_UNSEEN = 30.0  # seconds that a machine just made or started may be missing in the cloud's own list
_STATES = {machine.value: machine for machine in Machine}
_UP = frozenset({Machine.RUNNING, Machine.LEAVING, Machine.COMING})


class CommandProvider:
    """`Provider` that runs the user's commands; exit status 0 means accepted.

    A command finds the node in its environment (`Launch.env()`), runs in a process group of its own, and may
    leave processes behind: only a command that is cancelled or overruns is killed, with its whole group.

    Attributes:
        list_interval: seconds between two looks.
    """

    def __init__(self, options: CommandOptions) -> None:
        """Keep the commands; nothing is run yet."""
        self.list_interval = options.list_interval
        self._options = options
        self._changed: dict[str, tuple[Machine, float]] = {}  # node: what was asked for, and when (loop's clock)

    async def create(self, launch: Launch) -> None:
        """Run `create`. Raises ProviderError."""
        await self._run("create", self._options.create, launch)
        self._changed[launch.node] = (Machine.COMING, _now())

    async def start(self, launch: Launch) -> None:
        """Run `start`. Raises ProviderError."""
        await self._run("start", self._options.start, launch)
        self._changed[launch.node] = (Machine.COMING, _now())

    async def stop(self, launch: Launch) -> None:
        """Run `stop`. Raises ProviderError."""
        await self._run("stop", self._options.stop, launch)
        self._changed[launch.node] = (Machine.STOPPING, _now())

    async def destroy(self, launch: Launch) -> None:
        """Run `destroy`. Raises ProviderError."""
        self._changed.pop(launch.node, None)
        await self._run("destroy", self._options.destroy, launch)

    async def list(self) -> Mapping[str, Machine] | None:
        """Run `list` and return each node that it prints; None without such a command.

        The cloud's own list may lag: a node that was made or started a moment ago is coming also if it is not there
        yet, and one that was stopped a moment ago is stopping while it is said to run.

        Raises:
            ProviderError: the command failed, or printed a line that is not `NODE STATE`, the state one of `Machine`.
        """
        if not self._options.list.strip():
            return None
        text = await self._run("list", self._options.list)
        found, latest = _machines(text), _now() - _UNSEEN
        self._changed = {node: change for node, change in self._changed.items() if change[1] > latest}
        for node, (asked, _) in self._changed.items():
            if asked is Machine.COMING:
                found.setdefault(node, asked)
            elif found.get(node) in _UP:
                found[node] = asked
        return found

    async def close(self) -> None:
        """Do nothing: no command outlives the call that runs it."""

    async def _run(self, name: str, command: str, launch: Launch | None = None) -> str:
        """Run a command; return what it printed. Raises ProviderError."""
        env = {**os.environ, **(launch.env() if launch else {})}
        # Files and no pipes: what a command leaves in the background keeps its output, and must neither hold
        # up this call nor die of a broken pipe when the bridge does.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            # What is read as a list has no warnings in it; elsewhere the order of the lines is worth more.
            process = await _spawn(name, command, env, output, output if launch else errors)
            try:
                failure = await self._wait(process, output, errors)
            finally:
                await asyncio.shield(_kill_group(process))
            if failure:
                raise ProviderError(f"{name} command: {failure}{_tail(output if launch else errors, launch)}")
            output.seek(0)
            return "" if launch else output.read().decode("utf-8", "replace")

    async def _wait(self, process: asyncio.subprocess.Process, *files: BinaryIO) -> str:
        """Wait for the end of a command within its bounds; return what went wrong, if anything."""
        deadline = asyncio.get_running_loop().time() + self._options.timeout
        while process.returncode is None:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return f"not done after {self._options.timeout:g} s"
            if any(os.fstat(file.fileno()).st_size > _MOST_OUTPUT for file in files):
                return f"wrote more than {_MOST_OUTPUT >> 20} MiB"
            try:
                await asyncio.wait_for(process.wait(), min(left, _CHECK_EVERY))
            except TimeoutError:
                continue
        code = process.returncode
        return "" if code == 0 else f"exit status {code}" if code > 0 else f"killed by signal {-code}"


async def _spawn(
    name: str, command: str, env: Mapping[str, str], output: BinaryIO, errors: BinaryIO
) -> asyncio.subprocess.Process:
    """Start a command. Raises ProviderError."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=env,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except OSError as error:
        raise ProviderError(f"{name} command: {error.strerror}") from None
    except asyncio.CancelledError:
        # asyncio itself would kill the shell only, and not what the shell has started by now.
        with contextlib.suppress(OSError):
            await _kill_group(await starting)
        raise


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs of a command that has not ended by itself."""
    if process.returncode is None:
        # The leader is not reaped yet, so its id cannot have gone to another group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _machines(text: str) -> dict[str, Machine]:
    """Read what `list` printed. Of several machines of one node, the liveliest counts. Raises ProviderError."""
    found: dict[str, Machine] = {}
    for line in filter(str.strip, text.splitlines()):
        node, *rest = line.split()
        machine = _STATES.get(" ".join(rest))
        if machine is None:
            raise ProviderError(f"list command: expected NODE running or NODE stopped, not {line[:80]!r}")
        found[node] = liveliest(found.get(node, machine), machine)
    return found


def _now() -> float:
    return asyncio.get_running_loop().time()


def _tail(output: BinaryIO, launch: Launch | None) -> str:
    """The end of what a command wrote, on one line, without the node's token."""
    start = output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
    text = output.read().decode("utf-8", "replace")
    if start:
        text = re.sub(r"^\S*", "", text)  # half a word, which might be half the token
    line = " ".join((text.replace(launch.token, "…") if launch else text).split())
    return f": {line}" if line else ""
