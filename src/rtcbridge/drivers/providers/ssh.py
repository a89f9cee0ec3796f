"""Nodes as processes on a list of fixed hosts, through SSH (asyncssh).

A node is on the host that has its folder; nothing else is remembered, but for where this object saw it last, so
that a bridge that was killed at any moment finds its nodes again. See `ssh_script` for what is done on a host.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from rtcbridge.config import SshOptions
from rtcbridge.drivers.providers.ssh_script import ANSWER, DONE, FULL, MISSING, script
from rtcbridge.ports import Launch, Machine, ProviderError

_LONGEST = 300  # characters of what a host says that an error shows
_MOST_OUTPUT = 1 << 20  # bytes; a host that says more is cut off
_SESSIONS = 8  # at once on one connection: OpenSSH allows 10
_KEEPALIVE = 15.0  # seconds between two signs of life on an idle connection
_MACHINES = {"runs": Machine.RUNNING, "down": Machine.STOPPED}
_HOST = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?\Z")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class UnreachableError(ProviderError):
    """A host cannot be asked: it does not answer, or no log-in is possible."""


class SshProvider:
    """`Provider` of nodes on fixed hosts. The first host in the list that has room gets the next node.

    Attributes:
        list_interval: seconds between two looks.
    """

    def __init__(self, pool: str, options: SshOptions) -> None:
        """No host is dialled yet.

        Args:
            pool: its name, the folder of its nodes on each host.
            options: `[pools.ssh]`.
        """
        self.list_interval = options.list_interval
        self._pool = pool
        self._options = options
        self._hosts = [_Host(text, options) for text in options.hosts]
        self._places: dict[str, _Host] = {}

    async def create(self, launch: Launch) -> None:
        """Start the agent on the first host with room. Raises ProviderError."""
        place, silent = await self._find(launch)
        refusals = [str(error) for error in silent.values()]
        for host in [place] if place else [host for host in self._hosts if host not in silent]:
            # Noted before: the answer may be lost, and the node must not be made on a second host then.
            self._places[launch.node] = host
            if await self._ask(host, "create", launch) != FULL:
                return
            del self._places[launch.node]
            refusals.append(f"{host.name} is full")
        raise ProviderError(f"create: no host has room: {'; '.join(refusals)}")

    async def start(self, launch: Launch) -> None:
        """Start the agent where it was stopped. Raises ProviderError."""
        await self._on_its_host("start", launch)

    async def stop(self, launch: Launch) -> None:
        """End the agent, by SIGKILL after `stop_grace`, and keep its folder. Raises ProviderError."""
        await self._on_its_host("stop", launch)

    async def destroy(self, launch: Launch) -> None:
        """End the agent and remove its folder. Raises ProviderError, also when a host that may have it is silent."""
        place, silent = await self._find(launch)
        if place is not None:
            await self._ask(place, "destroy", launch)
        elif silent:
            raise ProviderError(f"destroy: {next(iter(silent.values()))}")
        self._places.pop(launch.node, None)

    async def list(self) -> Mapping[str, Machine] | None:
        """Return each node that has a folder on a host, RUNNING or STOPPED.

        Raises:
            ProviderError: a host is silent; its nodes would seem to be gone otherwise.
        """
        machines, silent = await self._look()
        if silent:
            raise ProviderError(f"list: {next(iter(silent.values()))}")
        return {node: machine for nodes in machines.values() for node, machine in nodes.items()}

    async def close(self) -> None:
        """Close the connections; the agents go on."""
        await asyncio.gather(*(host.close() for host in self._hosts))

    async def _on_its_host(self, verb: str, launch: Launch) -> None:
        place, silent = await self._find(launch)
        if place is None or await self._ask(place, verb, launch) == MISSING:
            self._places.pop(launch.node, None)
            because = f"; {next(iter(silent.values()))}" if silent else ""
            raise ProviderError(f"{verb}: no host has a folder of node {launch.node}{because}")

    async def _find(self, launch: Launch) -> tuple["_Host | None", Mapping["_Host", ProviderError]]:
        """Return the host that a node is on, if any, and the hosts that could not be asked."""
        if not _NODE.match(launch.node):
            raise ProviderError(f"{launch.node!r} cannot be the name of a folder")
        if launch.node in self._places:
            return self._places[launch.node], {}
        machines, silent = await self._look()
        return next((host for host, nodes in machines.items() if launch.node in nodes), None), silent

    async def _look(self) -> tuple[Mapping["_Host", Mapping[str, Machine]], Mapping["_Host", ProviderError]]:
        """Return the nodes of each host, and the hosts that could not be asked."""
        lines = await asyncio.gather(*(self._run(host, "list") for host in self._hosts), return_exceptions=True)
        machines: dict[_Host, Mapping[str, Machine]] = {}
        silent: dict[_Host, ProviderError] = {}
        for host, answer in zip(self._hosts, lines, strict=True):
            if isinstance(answer, ProviderError):
                silent[host] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                machines[host] = _nodes(answer)
                self._places |= dict.fromkeys(machines[host], host)
        return machines, silent

    async def _ask(self, host: "_Host", verb: str, launch: Launch) -> str:
        """Run an operation; return its last word. Raises ProviderError."""
        try:
            return (await self._run(host, verb, launch))[-1]
        except ProviderError as error:
            raise ProviderError(f"{verb}: {str(error).replace(launch.token, '…')}") from None

    async def _run(self, host: "_Host", verb: str, launch: Launch | None = None) -> Sequence[str]:
        """Run the script of an operation on a host; return its answers, the last of which says that it is done."""
        options = self._options
        grace = options.stop_grace if verb != "list" else 0
        text = script(
            verb,
            state=options.state,
            pool=self._pool,
            patience=options.timeout,
            launch=launch,
            command=options.command,
            room=options.nodes_per_host,
            grace=options.stop_grace,
        )
        output = await host.run(text, options.timeout + grace)
        answers = [line.removeprefix(ANSWER) for line in output.splitlines() if line.startswith(ANSWER)]
        last = answers[-1] if answers else ""
        if last not in (DONE, FULL, MISSING):
            raise ProviderError(f"{host.name}: {_line(last.removeprefix('failed ') or output or 'no answer')}")
        return answers


class _Host:
    """One host, and the connection to it, which is made when it is needed and kept."""

    def __init__(self, text: str, options: SshOptions) -> None:
        match = _HOST.match(text)
        if match is None:
            raise ProviderError(f"ssh.hosts: {text!r} is no host")
        self.name = text
        self._options = options
        self._address: dict[str, Any] = {"host": match["v6"] or match["name"]}
        if match["user"]:
            self._address["username"] = match["user"]
        if match["port"]:
            self._address["port"] = int(match["port"])
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._sessions = asyncio.Semaphore(_SESSIONS)

    async def run(self, text: str, seconds: float) -> str:
        """Run a script on this host within so many seconds; return what it says. Raises ProviderError."""
        async with self._sessions:
            try:
                connection = await self._connect()
                async with asyncio.timeout(seconds):
                    return await _run(connection, text)
            except TimeoutError:
                await self._drop()
                raise UnreachableError(f"{self.name}: no answer within {seconds:g} s") from None
            except (asyncssh.Error, OSError) as error:
                await self._drop()
                raise UnreachableError(f"{self.name}: {_reason(error)}") from None
            except ValueError as error:  # a key file that is none
                raise UnreachableError(f"{self.name}: {_line(error)}") from None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    async def _drop(self) -> None:
        """Let go of a connection that failed; others that use it fail too, and the next makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                options = self._options
                given: dict[str, Any] = {}
                if options.key:
                    # Only this one: a server gives up after a few wrong keys.
                    given |= {"client_keys": [options.key], "agent_path": None}
                if options.known_hosts:
                    given["known_hosts"] = options.known_hosts
                elif not (Path.home() / ".ssh" / "known_hosts").exists():
                    raise OSError("there is no ~/.ssh/known_hosts: set ssh.known_hosts")
                self._connection = await asyncssh.connect(
                    **self._address,
                    **given,
                    preferred_auth="publickey",
                    connect_timeout=options.connect_timeout,
                    login_timeout=options.connect_timeout,
                    keepalive_interval=_KEEPALIVE,
                )
            return self._connection


async def _run(connection: asyncssh.SSHClientConnection, text: str) -> str:
    # `exec sh` means the same in every log-in shell.
    process = await connection.create_process("exec sh", stderr=asyncssh.STDOUT, encoding=None)
    async with process:
        process.stdin.write(text.encode())
        process.stdin.write_eof()
        try:
            output: bytes = await process.stdout.readexactly(_MOST_OUTPUT)
        except asyncio.IncompleteReadError as error:
            output = error.partial
        else:
            process.close()
    return output.decode("utf-8", "replace")


def _nodes(answers: Iterable[str]) -> Mapping[str, Machine]:
    words = [answer.split(" ", 1) for answer in answers]
    return {word[1]: _MACHINES[word[0]] for word in words if word[0] in _MACHINES}


def _reason(error: Exception) -> str:
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return "its host key is not in the known_hosts file, or is another one there"
        case asyncssh.PermissionDenied():
            return "log-in refused: expected a key that this host accepts"
        case asyncssh.Error():
            return _line(error.reason)
        case OSError(errno=int(number)) if number > 0:  # below: of a look-up of a name, whose text says it
            text = os.strerror(number)
            return f"{error.filename}: {text}" if error.filename else text
        case _:
            return _line(error)


def _line(text: object) -> str:
    """What a host says, on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"…{line[-_LONGEST:]}"
