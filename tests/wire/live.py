"""A bridge in a process of its own as the world of vectors, over real WebSockets."""

import asyncio
import contextlib
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rtcbridge.conformance.replay import Ended, Frame, Operation, Replay
from rtcbridge.conformance.sockets import PATIENCE, Wire
from rtcbridge.conformance.vectors import Limits, Vector
from rtcbridge.drivers.ledger import KeyStore, open_store
from rtcbridge.ports import TOKEN_LIFETIME, TokenTerms

_SCRIPT = Path(__file__).with_name("provider_script.py")
_AT_ONCE = 8  # vectors that run beside each other: their waits overlap, and the machine is not crowded
_NO_OPERATION = 0.3  # seconds without one that count as none


class Program:
    """One process of `rtcbridge serve`; what it logs is in `log`."""

    def __init__(self, config: Path, log: list[str], **settings: str) -> None:
        self.config, self.log, self.settings = config, log, settings
        self.port = self.metrics = 0
        self.process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RTCBRIDGE_")}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rtcbridge", "serve", "--config", str(self.config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=environment | self.settings, limit=1 << 20,
        )  # fmt: skip
        self.port = 0
        listening = asyncio.Event()
        self._reader = asyncio.create_task(self._read(listening))
        async with asyncio.timeout(PATIENCE):
            await listening.wait()
        assert self.port, "\n".join(self.log)

    async def _read(self, listening: asyncio.Event) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().rstrip()
            self.log.append(text)
            with contextlib.suppress(ValueError):
                event = json.loads(text)
                if event.get("event") == "listening":
                    self.port, self.metrics = event["port"], event.get("metrics", 0)
                    listening.set()
        listening.set()

    async def kill(self) -> None:
        """`kill -9`."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self._reader is not None:
            await self._reader


class Bridge:
    """`rtcbridge serve` with one pool and one project a vector.

    Args:
        folder: for its files.
        vectors: what is to be played.
        limits: settings that all of them need.
        store: the address of its store; a file in the folder if there is none.
    """

    def __init__(self, folder: Path, vectors: Sequence[Vector], limits: Limits, store: str = "") -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder}/bridge.db"
        self.config = folder / "rtcbridge.toml"
        self.config.write_text(_config(folder, vectors, limits, self.store))
        self.worlds = [Live(self, vector, number) for number, vector in enumerate(vectors)]
        self.operations: dict[str, asyncio.Queue[Operation]] = defaultdict(asyncio.Queue)
        self.url = ""
        self.log: list[str] = []
        self._program = Program(self.config, self.log)
        self._commands: set[asyncio.StreamWriter] = set()

    async def quiet(self, pool: str) -> None:
        """Wait until what was sent and closed has had its consequences: with one bridge, it has at once."""

    def make_keys(self) -> None:
        """Make the keys of all vectors, straight in the store: a process for each would take a second."""
        with open_store(self.store) as database:
            keys = KeyStore(database)
            for world in self.worlds:
                world.values = {
                    "client_key": keys.create_client_key(world.project),
                    "node_key": keys.create_node_key(world.pool),
                    "revoked_key": keys.create_client_key(world.project),
                    "pool": world.pool,
                }
                keys.revoke_key(keys.keys()[-1].id)
            keys.prepare_tokens()
            for world in self.worlds:
                identity = keys.identify(world.values["client_key"])
                assert identity is not None
                world.values["client_token"], _ = keys.make_token(identity, TokenTerms(), TOKEN_LIFETIME)
            keys.close()

    async def start(self) -> None:
        """Start it and wait until it listens."""
        await self._program.start()
        self.url = f"ws://127.0.0.1:{self._program.port}"

    async def kill(self) -> None:
        """`kill -9`."""
        await self._program.kill()

    async def command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The bridge has run a command of a provider."""
        self._commands.add(writer)
        asked = json.loads(await reader.readline())
        operation = Operation(asked["name"], asked["node"], asked["token"], writer)
        self.operations[asked["pool"]].put_nowait(operation)

    def let_go(self) -> None:
        """Let commands end that nobody answered."""
        for writer in self._commands:
            writer.close()


@asynccontextmanager
async def running(bridge: Bridge) -> AsyncIterator[Bridge]:
    """Run a bridge, with what its providers' commands talk to."""
    bridge.make_keys()
    server = await asyncio.start_unix_server(bridge.command, bridge.folder / "provider.sock")
    try:
        await bridge.start()
        yield bridge
    finally:
        await bridge.kill()
        bridge.let_go()
        server.close()
        await server.wait_closed()


def _config(folder: Path, vectors: Sequence[Vector], limits: Limits, store: str) -> str:
    sections: dict[str, dict[str, Any]] = {
        "server": {"port": 0},
        "store": {"url": store},
        "log": {"format": "json"},
    }
    for name, value in limits.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    text = "".join(f"[{name}]\n{_table(values)}\n" for name, values in sections.items())
    for number, vector in enumerate(vectors):
        pool = {**vector.pool, "name": _pool(number), "projects": [_project(number)]}
        pool["provider"] = "command" if vector.scripted else "static"
        text += f"[[pools]]\n{_table(pool)}\n"
        if vector.scripted:
            text += f"[pools.command]\n{_table(_commands(folder))}\n"
    return text


def _commands(folder: Path) -> dict[str, str]:
    command = shlex.join([sys.executable, "-I", "-S", str(_SCRIPT), str(folder / "provider.sock")])
    return {name: f"exec {command} {name}" for name in ("create", "start", "stop", "destroy")}


def _table(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _pool(number: int) -> str:
    return f"pool-{number}"


def _project(number: int) -> str:
    return f"V{number:05d}"


class Live:
    """A `World`: one vector's part of a bridge."""

    def __init__(self, bridge: Bridge, vector: Vector, number: int) -> None:
        self.bridge = bridge
        self.vector = vector
        self.number = number
        self.pool, self.project = _pool(number), _project(number)
        self.values: dict[str, str] = {}
        self.wires: dict[str, Wire] = {}
        self._all: list[Wire] = []
        self._since = time.monotonic()  # when the last step was done
        self._actor = ""  # who has done something of which nobody has seen a consequence yet
        self._is_calm = True  # nothing was done since the bridges had nothing under way

    # --- sockets ---

    def node_id(self, actor: str) -> str:
        return f"{self.number}.{actor}"

    def actors(self) -> list[str]:
        return [actor for actor, wire in self.wires.items() if not wire.left]

    async def connect(self, actor: str, path: str, subprotocol: str) -> None:
        await self._before(actor)
        wire = Wire()
        await wire.open(self.bridge.url + path, subprotocol)
        self.wires[actor] = wire
        self._all.append(wire)
        self._acts(actor)

    async def send(self, actor: str, frames: list[Frame]) -> None:
        await self._before(actor)
        await self.wires[actor].send(frames)
        self._acts(actor)

    async def close(self, actor: str, code: int | None) -> None:
        await self._before(actor)
        await self.wires[actor].close(code)
        await self._noticed(actor)

    async def drop(self, actor: str) -> None:
        await self._before(actor)
        self.wires[actor].drop()
        await self._noticed(actor)

    async def _before(self, actor: str) -> None:
        """What one has done has had its consequences, seen or not, before another does something."""
        if self._actor not in ("", actor):
            await self._calm()

    async def _calm(self) -> None:
        if not self._is_calm:
            await self.bridge.quiet(self.pool)
        self._actor, self._is_calm = "", True

    def _acts(self, actor: str) -> None:
        self._actor, self._is_calm = actor, False
        self._done()

    async def _noticed(self, actor: str) -> None:
        """Wait until the bridge has seen that a socket ended: two turns of its event loop later."""
        probe = Wire()
        await probe.open(f"{self.bridge.url}/client")
        for _ in range(2):
            await probe.settled()
        await probe.finish()
        self._acts(actor)

    async def _settled(self) -> None:
        """Wait until everything that the bridge had to say to our actors has come."""
        await self._calm()
        for _ in range(2):
            for wire in self.wires.values():
                await wire.settled()

    async def receive(self, actor: str, after: float | None) -> bytes | Ended:
        got = await self.wires[actor].next(PATIENCE + (after or 0.0))
        assert got is not None, f"nothing came{''.join(self.bridge.log[-5:])}"
        when, frame = got
        self._actor = ""  # it has been seen to have a consequence
        self._check(when, after)
        return frame

    def _check(self, when: float, after: float | None) -> None:
        """A clock that runs cannot be exact: what should take a second must not come within half of it."""
        took = when - self._since
        assert after is None or took > after / 2, f"too early: {took:.3f} s"
        self._done()

    def _done(self) -> None:
        self._since = time.monotonic()

    async def waiting(self, actor: str) -> list[bytes | Ended]:
        await self._settled()
        return [frame for _, frame in self.wires[actor].inbox]

    async def let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._acts("")

    # --- what happens beside them ---

    async def operation(self, after: float | None) -> Operation:
        async with asyncio.timeout(PATIENCE + (after or 0.0)):
            operation = await self.bridge.operations[self.pool].get()
        self._check(time.monotonic(), after)
        return operation

    async def answer(self, operation: Operation, accepted: bool) -> None:
        operation.handle.write(b"accept\n" if accepted else b"refuse\n")
        operation.handle.close()

    async def no_operation(self) -> None:
        await asyncio.sleep(_NO_OPERATION)
        assert self.bridge.operations[self.pool].empty(), "the provider was asked for more"

    async def revoke(self, key: str) -> None:
        with open_store(self.bridge.store) as database:
            keys = KeyStore(database)
            identity = keys.identify(key)
            assert identity is not None
            assert keys.revoke_key(identity.key)
            keys.close()

    async def kill(self) -> None:
        await self.bridge.kill()
        self.wires.clear()
        self._acts("")

    async def start(self) -> None:
        await self.bridge.start()

    async def finish(self) -> None:
        """Leave nothing behind."""
        for wire in self._all:
            await wire.finish()


async def played(worlds: Sequence[Live]) -> list[str]:
    """Play the vectors of a bridge, some beside each other; return what was wrong."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def play(world: Live) -> str:
        async with gate:
            try:
                await Replay(world.vector, world).run()
            except AssertionError as error:
                return str(error)
            finally:
                await world.finish()
        return ""

    return [wrong for wrong in await asyncio.gather(*map(play, worlds)) if wrong]
