"""Nodes as processes on this machine.

A node's folder is `STATE/POOL/NODE`: its log, what is known about its process, and a lock. The process holds
the lock from before it runs until it is gone, whoever started it, so that "does it run?" is answered by the
kernel: a bridge that was killed at any moment and comes back neither forgets a node nor starts it twice.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from rtcbridge.config import LocalOptions
from rtcbridge.ports import Launch, Machine, ProviderError

PROGRAM = (sys.executable, "-m", "rtcbridge", "node")
_STATE = "process.json"
_STORE = "RTCBRIDGE_STORE__URL"  # it may have a password, which is none of a model's business
_POLL = 0.02  # seconds between two looks at a process that is ending and is no child of ours
_KILL_WAIT = 10.0  # seconds for the kernel to remove a killed process
_CLOCK_SLACK = 2.0  # seconds that a process's start may seem to move when the clock is set
_LONGEST_LOG = 4 << 20
# To look whether a lock is held is to take it for a moment, which must not pass for a running node.
_looking = threading.Lock()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class _Known(msgspec.Struct, frozen=True):
    """The state file: a process's id, and when it started (Unix seconds), since ids are used again."""

    pid: int
    started: float


class LocalProvider:
    """`Provider` that runs `rtcbridge node` in a session of its own, with `Launch.env()` in its environment.

    The node's token is never on a command line, where everyone on the machine could read it.
    """

    list_interval = 1.0

    def __init__(self, pool: str, options: LocalOptions, *, slots: int = 1, program: Sequence[str] = PROGRAM) -> None:
        """Nothing is made until the first node.

        Args:
            pool: its name, the folder of its nodes.
            options: `[pools.local]`.
            slots: sessions at once on a node.
            program: what is run, before the model and further arguments.
        """
        self._folder = Path(options.state).absolute() / pool
        self._grace = options.stop_grace
        engine = ("--engine", options.engine) if options.engine else ()
        self._command = [*program, options.model, "--slots", str(slots), *engine, *options.args]

    async def create(self, launch: Launch) -> None:
        """Make the node's folder and start its process. Raises ProviderError."""
        folder = self._node(launch.node)
        with _errors("create"):
            folder.mkdir(parents=True, exist_ok=True)
        await self._spawn("create", folder, launch)

    async def start(self, launch: Launch) -> None:
        """Start the process of a node that was stopped. Raises ProviderError."""
        folder = self._node(launch.node)
        if not _exists(folder):
            raise ProviderError(f"start: there is no local node {launch.node}")
        await self._spawn("start", folder, launch)

    async def stop(self, launch: Launch) -> None:
        """End the process, by SIGKILL after `stop_grace`; keep the folder. Raises ProviderError."""
        folder = self._node(launch.node)
        if not _exists(folder):
            raise ProviderError(f"stop: there is no local node {launch.node}")
        with _errors("stop"):
            await _end(folder, self._grace)

    async def destroy(self, launch: Launch) -> None:
        """End the process and remove the folder; do nothing if there is none. Raises ProviderError."""
        folder = self._node(launch.node)
        with _errors("destroy"):
            await _destroy(folder, self._grace)

    async def list(self) -> Mapping[str, Machine] | None:
        """Return each node that has a folder, RUNNING or STOPPED. Raises ProviderError."""
        with _errors("list"):
            return await asyncio.to_thread(_look, self._folder)

    async def close(self) -> None:
        """Do nothing: the nodes go on."""

    def _node(self, node: str) -> Path:
        if not _NAME.match(node):
            raise ProviderError(f"{node!r} cannot be the name of a folder")
        return self._folder / node

    async def _spawn(self, verb: str, folder: Path, launch: Launch) -> None:
        kept = {name: value for name, value in os.environ.items() if name != _STORE}
        with _errors(verb):
            # In a thread, which a cancelled call does not stop half way.
            await asyncio.to_thread(_spawn, folder, self._command, {**kept, **launch.env()})


async def sweep(state: str | os.PathLike[str], grace: float = 2.0) -> int:
    """End all local nodes of a state folder and remove theirs, whoever started them; return how many.

    Raises:
        ProviderError: a process could not be ended, or a folder not removed.
    """
    with _errors("sweep"):
        pools = _folders(Path(state))
        # Only folders that were ours: a wrong path must not cost anyone his files.
        nodes = [node for pool in pools for node in _folders(pool) if (node / "lock").is_file()]
        await asyncio.gather(*(_destroy(node, grace) for node in nodes))
        for folder in (*pools, Path(state)):
            with contextlib.suppress(OSError):
                folder.rmdir()
    return len(nodes)


@contextlib.contextmanager
def _errors(verb: str) -> Iterator[None]:
    """Turn what the machine refuses into a ProviderError of one line."""
    try:
        yield
    except psutil.Error as error:
        raise ProviderError(f"{verb}: {error}") from None
    except (OSError, ValueError) as error:
        raise ProviderError(f"{verb}: {error}") from None


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and _NAME.match(entry.name))
    except FileNotFoundError:
        return []


def _lock(folder: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """Return a descriptor that holds the node's lock, or None while a process of the node has it."""
    descriptor = os.open(folder / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _exists(folder: Path) -> bool:
    return folder.is_dir()


def _is_locked(folder: Path) -> bool:
    """Say whether any process of the node is left. Makes no file: the folder may be about to be removed."""
    with _looking, contextlib.suppress(FileNotFoundError):
        lock = _lock(folder, os.O_RDWR)
        if lock is None:
            return True
        os.close(lock)
    return False


def _is_running(folder: Path) -> bool:
    """Say whether the node's main process runs: one that was never noted does, if the lock is held."""
    return _is_locked(folder) and (not (folder / _STATE).exists() or _find(folder) is not None)


def _look(pool: Path) -> dict[str, Machine]:
    return {folder.name: Machine.RUNNING if _is_running(folder) else Machine.STOPPED for folder in _folders(pool)}


def _spawn(folder: Path, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Start the node's process, unless it runs already."""
    with _looking:
        lock = _lock(folder)
    if lock is None and _is_running(folder):
        return
    if lock is None:
        lock = _lock_after_orphans(folder)
    try:
        (folder / _STATE).unlink(missing_ok=True)
        log = folder / "node.log"
        fresh = not log.exists() or log.stat().st_size > _LONGEST_LOG
        with log.open("wb" if fresh else "ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command line, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
                pass_fds=[lock],
            )
        try:
            _remember(folder, process.pid)
        finally:
            # Reaps the process when it ends, and not before its id is noted, which then could be another's.
            # A node that outlives the bridge is reaped by init.
            threading.Thread(target=process.wait, name=f"node {folder.name}", daemon=True).start()
    finally:
        os.close(lock)


def _remember(folder: Path, pid: int) -> None:
    data = msgspec.json.encode(_Known(pid, psutil.Process(pid).create_time()))
    partial = folder / f"{_STATE}.new"
    partial.write_bytes(data)
    partial.replace(folder / _STATE)


def _find(folder: Path) -> psutil.Process | None:
    """Return the process of a node, never another one that was given its id."""
    try:
        known = msgspec.json.decode((folder / _STATE).read_bytes(), type=_Known)
        process = psutil.Process(known.pid)
        if abs(process.create_time() - known.started) <= _CLOCK_SLACK and _is_alive(process):
            return process
    except (FileNotFoundError, msgspec.DecodeError, psutil.NoSuchProcess):
        pass
    return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _members(folder: Path) -> list[psutil.Process]:
    """Return the node's processes, the first one first.

    Normally they are the remembered one and its children. When that one is not known (the bridge was killed
    between starting and noting it) or has ended before its children, those that hold the lock are looked for.
    """
    main = _find(folder)
    if main is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [main, *main.children(recursive=True)]
    return _holders(folder) if _is_locked(folder) else []


def _holders(folder: Path) -> list[psutil.Process]:
    """Return the processes that have the node's lock open, oldest first."""
    path = str((folder / "lock").resolve())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and path in {file.path for file in process.open_files()}:
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def _lock_after_orphans(folder: Path) -> int:
    """Kill what a node's dead main process left, and return the lock."""
    deadline = time.monotonic() + _KILL_WAIT
    while time.monotonic() < deadline:
        for process in _holders(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with _looking:
            lock = _lock(folder)
        if lock is not None:
            return lock
        time.sleep(_POLL)
    raise OSError(f"processes of node {folder.name} do not end")


async def _end(folder: Path, grace: float) -> None:
    """End the node's processes: the main one is asked to, and gets `grace` seconds."""
    members = await asyncio.to_thread(_members, folder)
    if members:
        with contextlib.suppress(psutil.NoSuchProcess):
            members[0].terminate()
        await _gone(members[:1], grace)
    deadline = asyncio.get_running_loop().time() + _KILL_WAIT
    while True:
        # Those that were there, and those of the last moments: one may start another while it is killed.
        members += await asyncio.to_thread(_members, folder)
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil kills no process with a recycled id
        if await _gone(members, _KILL_WAIT) and not _is_locked(folder):
            return
        if asyncio.get_running_loop().time() > deadline:
            raise OSError(f"processes of node {folder.name} do not end")


async def _gone(processes: Iterable[psutil.Process], patience: float) -> bool:
    """Wait up to `patience` seconds for the end of all; say whether it came."""
    deadline = asyncio.get_running_loop().time() + patience
    while any(_is_alive(process) for process in processes):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL)
    return True


async def _destroy(folder: Path, grace: float) -> None:
    if _exists(folder):
        await _end(folder, grace)
        await asyncio.to_thread(shutil.rmtree, folder)
