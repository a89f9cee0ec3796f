"""Nodes by four shell commands: any cloud that has a command line."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from typing import BinaryIO

from rtcbridge.config import CommandOptions
from rtcbridge.ports import Launch, Machine, ProviderError

_TAIL = 400  # bytes of a command's output that an error shows
_MOST_OUTPUT = 16 << 20  # bytes; a command that writes more is killed
_CHECK_EVERY = 0.5  # seconds


class CommandProvider:
    """`Provider` that runs the user's commands; exit status 0 means accepted.

    A command finds the node in its environment (`Launch.env()`), runs in a process group of its own, and may
    leave processes behind: only a command that is cancelled or overruns is killed, with its whole group.
    """

    list_interval = 60.0

    def __init__(self, options: CommandOptions) -> None:
        """Keep the commands; nothing is run yet."""
        self._options = options

    async def create(self, launch: Launch) -> None:
        """Run `create`. Raises ProviderError."""
        await self._run("create", self._options.create, launch)

    async def start(self, launch: Launch) -> None:
        """Run `start`. Raises ProviderError."""
        await self._run("start", self._options.start, launch)

    async def stop(self, launch: Launch) -> None:
        """Run `stop`. Raises ProviderError."""
        await self._run("stop", self._options.stop, launch)

    async def destroy(self, launch: Launch) -> None:
        """Run `destroy`. Raises ProviderError."""
        await self._run("destroy", self._options.destroy, launch)

    async def list(self) -> Mapping[str, Machine] | None:
        """Return None: there is no command for it."""
        return None

    async def close(self) -> None:
        """Do nothing: no command outlives the call that runs it."""

    async def _run(self, name: str, command: str, launch: Launch) -> None:
        # A file and no pipe: what a command leaves in the background keeps its output, and must neither hold
        # up this call nor die of a broken pipe when the bridge does.
        with tempfile.TemporaryFile() as output:
            process = await _spawn(name, command, {**os.environ, **launch.env()}, output)
            try:
                failure = await self._wait(process, output)
            finally:
                await asyncio.shield(_kill_group(process))
            if failure:
                raise ProviderError(f"{name} command: {failure}{_tail(output, launch)}")

    async def _wait(self, process: asyncio.subprocess.Process, output: BinaryIO) -> str:
        """Wait for the end of a command within its bounds; return what went wrong, if anything."""
        deadline = asyncio.get_running_loop().time() + self._options.timeout
        while process.returncode is None:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return f"not done after {self._options.timeout:g} s"
            if os.fstat(output.fileno()).st_size > _MOST_OUTPUT:
                return f"wrote more than {_MOST_OUTPUT >> 20} MiB"
            try:
                await asyncio.wait_for(process.wait(), min(left, _CHECK_EVERY))
            except TimeoutError:
                continue
        code = process.returncode
        return "" if code == 0 else f"exit status {code}" if code > 0 else f"killed by signal {-code}"


async def _spawn(name: str, command: str, env: Mapping[str, str], output: BinaryIO) -> asyncio.subprocess.Process:
    """Start a command. Raises ProviderError."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
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


def _tail(output: BinaryIO, launch: Launch) -> str:
    """The end of what a command wrote, on one line, without the node's token."""
    start = output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
    text = output.read().decode("utf-8", "replace")
    if start:
        text = re.sub(r"^\S*", "", text)  # half a word, which might be half the token
    line = " ".join(text.replace(launch.token, "…").split())
    return f": {line}" if line else ""
