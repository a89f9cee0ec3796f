"""One connection to the server, over which calls go out in order, many at once, and which comes back by itself."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from rtcbridge.drivers.engine.url import EngineUrl
from rtcbridge.ports_engine import EngineError

BACKOFF = 0.05  # seconds between two tries; constant, since a growing pause is what a restart would have to wait for
_CONNECT_TIMEOUT = 1.0
_QUEUE = 100_000  # calls that may wait

Arguments = tuple[Any, ...]

logger = logging.getLogger(__name__)


class PipeDownError(Exception):
    """The connection was lost, or is not there. What came of the call is not known."""


class Connector:
    """Makes connections to the server of an address; with sentinels, to the one that they name."""

    def __init__(self, url: EngineUrl) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "db": url.database,
            "username": url.username or None,
            "password": url.password or None,
            "socket_timeout": None,
            "socket_connect_timeout": _CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        self._sentinel: Any = None
        if url.service:
            self._sentinel = Sentinel(list(url.hosts), socket_timeout=_CONNECT_TIMEOUT)  # type: ignore[no-untyped-call]

    async def connect(self) -> AbstractConnection:
        """Connect to the server. Raises RedisError or OSError."""
        host, port = self._url.hosts[0]
        if self._sentinel is not None:
            host, port = await self._sentinel.discover_master(self._url.service)
        kind = SSLConnection if self._url.tls else Connection
        connection = kind(host=host, port=port, **self._options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._sentinel is not None:
                await connection.send_command("ROLE")
                if (await connection.read_response())[0] != b"master":
                    raise RedisError("the server is no master any more")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def close(self) -> None:
        """Let go of the connections to sentinels."""
        for client in self._sentinel.sentinels if self._sentinel is not None else ():
            await client.aclose()


class Pipe:
    """Calls in the order in which they are made; those of one turn of the loop go out in one write.

    Args:
        connector: makes its connections.
        hello: is awaited with each new connection, before any other call goes out on it.
        silence: seconds that the server may take to answer before the connection is given up.

    Attributes:
        up: set while calls can be made.
        error: why the last try to connect failed, in one line.
        refused: the server does not let us in; the same address will not help.
    """

    def __init__(
        self, connector: Connector, hello: Callable[[], Awaitable[None]], silence: float, *, queue: int = _QUEUE
    ) -> None:
        self._connector, self._hello, self._silence, self._limit = connector, hello, silence, queue
        self._connection: AbstractConnection | None = None
        self._waiting: list[Arguments] = []
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._sent = asyncio.Event()
        self._failed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = 0.0
        self.up = asyncio.Event()
        self.error = ""
        self.refused = False
        self.tried = asyncio.Event()  # set when it is up, or refused

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def restart(self) -> None:
        """Give this connection up; a new one says hello again."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(PipeDownError("restarted"))

    def call(self, *arguments: Any) -> "asyncio.Future[Any]":
        """Make a call; its answer comes in the future, or PipeDownError, or redis's ResponseError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._connection is None or len(self._answers) >= self._limit:
            future.set_exception(PipeDownError(self.error or "not connected"))
            return future
        self._waiting.append(arguments)
        self._answers.append(future)
        self._sent.set()
        return future

    async def _run(self) -> None:
        while True:
            try:
                await self._live(await self._connector.connect())
            except (RedisError, OSError, PipeDownError, EngineError) as error:
                self._note(error)
            except Exception as error:
                logger.exception("engine: not expected; going on")
                self.error = repr(error)
            await asyncio.sleep(BACKOFF)

    def _note(self, error: Exception) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        self.refused = isinstance(error, AuthenticationError) or "NOPERM" in text
        if self.refused:
            self.tried.set()
        if text != self.error:
            self.error = text
            logger.warning("engine: %s", text)

    async def _live(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        self._connection, self._failed, self._heard = connection, loop.create_future(), loop.time()
        tasks = [loop.create_task(part) for part in (self._write(connection), self._read(connection), self._watch())]
        greeting = loop.create_task(self._greet())
        try:
            await asyncio.wait([*tasks, greeting, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if greeting.done() and greeting.exception() is None:
                await asyncio.wait([*tasks, self._failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.up.clear()
            self._connection = None
            self._drop()
            if self._failed.done():
                self._failed.exception()
            for task in (*tasks, greeting):
                task.cancel()
            ends = await asyncio.gather(*tasks, greeting, return_exceptions=True)
            await connection.disconnect(nowait=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, PipeDownError):
                raise end
        raise PipeDownError(self.error or "the connection was given up")

    async def _greet(self) -> None:
        await self._hello()
        self.error, self.refused = "", False
        self.up.set()
        self.tried.set()

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._sent.wait()
            self._sent.clear()
            waiting, self._waiting = self._waiting, []
            await connection.send_packed_command(connection.pack_commands(waiting), check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            answer: Any
            try:
                answer = await connection.read_response(disable_decoding=True)
            except ResponseError as error:
                answer = error
            self._heard = loop.time()
            future = self._answers.popleft()
            if future.done():
                continue
            if isinstance(answer, ResponseError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _watch(self) -> None:
        """Give up a connection that owes an answer for too long: the server, or the way to it, stands still."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._silence / 4)
            if not self._answers:
                self._heard = loop.time()
            elif loop.time() - self._heard > self._silence:
                raise RedisError(f"no answer for {self._silence:g} s")

    def _drop(self) -> None:
        """Fail what has no answer."""
        answers, self._answers, self._waiting = self._answers, deque(), []
        self._sent.clear()
        for future in answers:
            if not future.done():
                future.set_exception(PipeDownError("the connection was lost"))
                future.exception()  # some callers have gone: it is no error that nobody looks
