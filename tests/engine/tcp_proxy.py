"""A TCP proxy that stands still, cuts connections, or loses what comes back."""

import asyncio
import ssl


class TcpProxy:
    """Between a replica and the server. Serves in the running loop."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.losing = False
        self.delaying = False

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        """Listen, for TLS if a context is given; return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        return int(self._server.sockets[0].getsockname()[1])

    def pause(self) -> None:
        """Keep back what comes, both ways."""
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """End all connections."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)  # type: ignore[arg-type]
            return
        pair = (writer, up_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, up_writer, False), self._pump(up_reader, writer, True))
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            self._tasks.discard(task)  # type: ignore[arg-type]
            for each in pair:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            if back and self.losing:
                self.losing = False
                raise ConnectionError
            writer.write(data)
            await writer.drain()
        if not self.delaying:
            raise ConnectionError  # one side is gone: so is the other
