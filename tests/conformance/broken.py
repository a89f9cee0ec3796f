"""A proxy that breaks rules: what stands behind it is a bridge that honours them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Alter = Callable[[dict[str, Any]], dict[str, Any] | None]


@asynccontextmanager
async def broken(url: str, alter: Alter = lambda message: message, code: int | None = None) -> AsyncIterator[str]:
    """Yield the address of a bridge that sends what `alter` returns, and closes with `code`."""

    async def up(peer: ServerConnection, bridge: ClientConnection) -> None:
        async for frame in peer:
            await bridge.send(frame)
        await bridge.close(peer.close_code if peer.close_code not in (None, 1005, 1006) else 1000)

    async def down(peer: ServerConnection, bridge: ClientConnection) -> None:
        async for frame in bridge:
            message = alter(json.loads(frame))
            if message is not None:
                await peer.send(json.dumps(message))

    async def handle(peer: ServerConnection) -> None:
        assert peer.request is not None
        async with connect(url + peer.request.path, proxy=None, max_size=None) as bridge:
            tasks = [asyncio.create_task(each(peer, bridge)) for each in (up, down)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if bridge.close_code is not None:
                await peer.close(code or bridge.close_code)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, ConnectionClosed | asyncio.CancelledError), result

    async with serve(handle, "127.0.0.1", 0, max_size=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
