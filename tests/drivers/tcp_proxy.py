"""A TCP proxy before a real server, in a thread of its own: it pauses, cuts, refuses, and loses a reply."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self


class _Pair:
    """One connection, from the client on to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.doomed = False  # the server's next bytes are not passed on, and both ends are reset

    def abort(self) -> None:
        for writer in self.ends:
            writer.transport.abort()


class TcpProxy:
    """Serves from when it is entered until it is left. Its methods return when what they do is done.

    Attributes:
        lost: how many replies have been lost.
    """

    def __init__(self, port: int) -> None:
        self.lost = 0
        self.port = 0
        self._upstream = port
        self._losing: list[bytes] = []
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.refuse()
        self.cut()
        self._call(self._end_tasks)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._listen)

    def refuse(self) -> None:
        """Refuse new connections; those that are there go on."""
        self._call(self._close)

    def cut(self) -> None:
        """Reset all connections."""
        self._call(self._abort)

    def lose_reply_to(self, words: bytes) -> None:
        """Pass on the next bytes from a client that have these words, and reset instead of passing on the reply."""
        self._losing.append(words)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pass nothing on: connections stay open, and new ones are taken, but no byte arrives."""
        self._loop.call_soon_threadsafe(self._flowing.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._flowing.set)

    def _call(self, coroutine: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine(), self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()

    async def _abort(self) -> None:
        for pair in self._pairs:
            pair.abort()

    async def _end_tasks(self) -> None:
        self._flowing.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        pair = _Pair(writer, to_server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._up(pair, reader, to_server), self._down(pair, from_server, writer))
        finally:
            pair.abort()
            self._pairs.discard(pair)
            self._tasks.discard(task)

    async def _up(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                for words in [words for words in self._losing if words in data]:
                    self._losing.remove(words)
                    pair.doomed = True
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _down(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if pair.doomed:
                    self.lost += 1
                    pair.abort()
                    return
                writer.write(data)
                await writer.drain()
        writer.close()
