"""A light node for pools of commands: registers as its environment says, and dials again until it is drained."""

import asyncio
import contextlib
import os

from websockets.exceptions import WebSocketException

from rtcbridge.testing import FakeNode


async def main() -> None:
    node = FakeNode(
        os.environ["RTCBRIDGE_URL"].removesuffix("/node"),
        os.environ["RTCBRIDGE_NODE_TOKEN"],
        node=os.environ["RTCBRIDGE_NODE"],
        pool=os.environ["RTCBRIDGE_POOL"],
    )
    node.patience = 3600.0

    def is_drained() -> bool:
        return any(message["type"] == "drain" for message in node.inbox)

    while not is_drained():
        with contextlib.suppress(OSError, WebSocketException):
            await node.connect()
            await node.until(lambda: node.code is not None or is_drained(), "drain")
        await asyncio.sleep(0.05)
    await node.close()


asyncio.run(main())
