"""How a replica leaves the others in good order: nothing that has begun fails by it."""

import asyncio
from functools import partial

from rtcbridge.core.errors import CloseCode
from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.clients import ClientSocket
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.slots import SlotLink

_SET_UP = frozenset(
    {State.ASKED, State.RESERVED, State.CLAIMING, State.OFFERED, State.RETRYING, State.REOFFERED, State.ANSWERED}
)
_LOOK = 0.05  # seconds between looks whether those have come to their end
_ON_ITS_WAY = 0.25  # seconds within which messages come that others sent before they knew that a node leaves


async def send_away(bridge: SharedBridge, patience: float) -> None:
    """Begin no session any more, and wait until none is on its way to its media, or for so many seconds.

    A client without such a session is sent away at once: it would wait for the end of all others.
    """
    bridge.leaving = True
    for _ in range(round(patience / _LOOK) + 1):
        for client in list(bridge.clients):
            if isinstance(client, ClientSocket) and not _is_setting_up(bridge, client.entry):
                client.close(CloseCode.RESTART)
        if not any(_is_setting_up(bridge, entry) for entry in bridge.sessions.values()):
            return
        await asyncio.sleep(_LOOK)


def _is_setting_up(bridge: SharedBridge, entry: Entry | None) -> bool:
    return entry is not None and entry.session.state in _SET_UP and entry.session.id in bridge.sessions


async def hand_over_nodes(bridge: SharedBridge) -> None:
    """Let others keep what they have for the nodes here, pass on what is on its way in both directions, and close."""
    links = [link for link in bridge.links.values() if isinstance(link, SlotLink)]
    for link in links:
        pool = bridge.shared_pool(link.pool)
        bridge.moved(pool, link.node, "", link.epoch)
        pool.calls.add(f"node {link.node}", partial(pool.store.node_down, link.node, link.epoch))
    await asyncio.sleep(_ON_ITS_WAY)
    for link in links:
        if bridge.links.get(link.node) is link and link.socket is not None:
            del bridge.links[link.node]  # what comes for it from now on goes back
            link.socket.close_behind(CloseCode.RESTART)
