"""One connection to the server, over which calls go out in order, many at once, and which comes back by itself.

The protocol is parsed and packed by hiredis; a call costs a fifth of what it costs through redis-py's connection.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import NoScriptError, RedisError, ResponseError

from rtcbridge.drivers.engine.url import EngineUrl
from rtcbridge.ports_engine import EngineError

BACKOFF = 0.05  # seconds between two tries; constant, since a growing pause is what a restart would have to wait for
_CONNECT_TIMEOUT = 1.0
_QUEUE = 100_000  # calls that may be without an answer
_REFUSALS = ("WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "ERR Client sent AUTH", "ERR DB index")
_NOT_NOW = ("READONLY", "LOADING", "MASTERDOWN")  # of a server that is not the one to speak to, or not yet

logger = logging.getLogger(__name__)


class PipeDownError(Exception):
    """The connection was lost, or is not there. What came of the call is not known."""


def _reply_error(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


class _Wire(asyncio.Protocol):
    """One TCP connection: calls go out once a turn of the loop, answers are matched in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_reply_error)
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.answers: deque[asyncio.Future[Any]] = deque()
        self.heard = self._loop.time()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def call(self, arguments: tuple[Any, ...]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self.answers:
            self.heard = self._loop.time()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(arguments))
        self.answers.append(future)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._take(answer)
        except (hiredis.ProtocolError, IndexError):
            self.fail(RedisError("the server does not speak its protocol"))

    def _take(self, answer: Any) -> None:
        future = self.answers.popleft()
        if isinstance(answer, ResponseError):
            text = str(answer)
            if any(word in text for word in _NOT_NOW):
                self.fail(RedisError(text))
                answer = PipeDownError(text)
            if not future.done():
                future.set_exception(answer)
        elif not future.done():
            future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None  # what is still to be flushed goes nowhere
        self.fail(error or ConnectionResetError("the server has closed the connection"))

    def fail(self, error: Exception) -> None:
        """Give it up."""
        if not self.lost.done():
            self.lost.set_exception(error)

    def close(self) -> None:
        """End it, and fail what has no answer."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        answers, self.answers = self.answers, deque()
        for future in answers:
            if not future.done():
                future.set_exception(PipeDownError("the connection was lost"))
                future.exception()  # some callers have gone: it is no error that nobody looks
        self.fail(PipeDownError("closed"))
        self.lost.exception()


class Connector:
    """Makes connections to the server of an address; with sentinels, to the one that they name."""

    def __init__(self, url: EngineUrl) -> None:
        self._url = url
        self._tls = ssl.create_default_context() if url.tls else None
        self._sentinel: Any = None
        if url.service:
            hosts = list(url.hosts)
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                hosts, socket_timeout=_CONNECT_TIMEOUT, socket_connect_timeout=_CONNECT_TIMEOUT, ssl=url.tls
            )

    async def connect(self) -> _Wire:
        """Connect to the server. Raises RedisError or OSError (TimeoutError is one)."""
        url = self._url
        async with asyncio.timeout(2 * _CONNECT_TIMEOUT):
            host, port = url.hosts[0]
            if self._sentinel is not None:
                host, port = await self._sentinel.discover_master(url.service)
            loop = asyncio.get_running_loop()
            _, wire = await loop.create_connection(_Wire, host, port, ssl=self._tls)
            try:
                if url.password:
                    await wire.call(("AUTH", *([url.username] if url.username else []), url.password))
                if url.database:
                    await wire.call(("SELECT", url.database))
                if self._sentinel is not None and (await wire.call(("ROLE",)))[0] != b"master":
                    raise RedisError("the server is no master any more")
            except BaseException:
                wire.close()
                raise
        return wire

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
        tried: set when it is up, or refused.
    """

    def __init__(self, connector: Connector, hello: Callable[[], Awaitable[None]], silence: float) -> None:
        self._connector, self._hello, self._silence = connector, hello, silence
        self._wire: _Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self.up = asyncio.Event()
        self.tried = asyncio.Event()
        self.error = ""
        self.refused = False

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
        if self._wire is not None:
            self._wire.fail(PipeDownError("said hello again"))

    def call(self, *arguments: Any) -> "asyncio.Future[Any]":
        """Make a call; its answer comes in the future, or PipeDownError, or redis's ResponseError."""
        if self._wire is None or len(self._wire.answers) >= _QUEUE:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(PipeDownError(self.error or "not connected"))
            return future
        return self._wire.call(arguments)

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
        text = " ".join(str(error).split()) or "no answer"
        self.refused = text.startswith(_REFUSALS)
        if self.refused:
            self.tried.set()
        if text != self.error:
            self.error = text
            logger.warning("engine: %s", text)

    async def _live(self, wire: _Wire) -> None:
        loop = asyncio.get_running_loop()
        self._wire = wire
        self._watch(wire)
        greeting = loop.create_task(self._greet())
        try:
            await asyncio.wait([wire.lost, greeting], return_when=asyncio.FIRST_COMPLETED)
            if greeting.done() and not wire.lost.done():
                greeting.result()
            await wire.lost
        finally:
            self.up.clear()
            self._wire = None
            wire.close()
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)

    async def _greet(self) -> None:
        await self._hello()
        self.error, self.refused = "", False
        self.up.set()
        self.tried.set()

    def _watch(self, wire: _Wire) -> None:
        """Give up a connection that owes an answer for too long: the server, or the way to it, stands still."""
        loop = asyncio.get_running_loop()
        if wire.lost.done():
            return
        if wire.answers and loop.time() - wire.heard > self._silence:
            wire.fail(RedisError(f"no answer for {self._silence:g} s"))
        loop.call_later(self._silence / 4, self._watch, wire)
