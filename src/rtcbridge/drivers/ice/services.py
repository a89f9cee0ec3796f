"""The APIs of TURN services: Cloudflare's and Twilio's."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import Struct

from rtcbridge.config import Cloudflare, Twilio
from rtcbridge.core.messages import IceServer
from rtcbridge.drivers.ice.prefetched import TIMEOUT
from rtcbridge.ports import IceError, IceGrant

_LONGEST_ANSWER = 65_536  # bytes
_URL = re.compile(r"(stuns?|turns?):\S{1,500}")
_BLOCKED = re.compile(r":53(\?|\Z)")  # a port that browsers refuse, and then wait for
_T = TypeVar("_T")


class _CloudflareAnswer(Struct):
    iceServers: list[IceServer]  # noqa: N815 - the API's name


class _TwilioAnswer(Struct):
    ttl: str
    ice_servers: list[IceServer]


class CloudflareSource:
    """Cloudflare Realtime TURN: https://developers.cloudflare.com/realtime/turn/generate-credentials/

    Args:
        config: The section `[ice.cloudflare]`.
        clock: Unix seconds.
    """

    name = "cloudflare"

    def __init__(self, config: Cloudflare, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock

    async def fetch(self) -> IceGrant:
        """See `IceSource`."""
        config = self._config
        asked = self._clock()
        answer = await _post(
            f"{config.url.rstrip('/')}/v1/turn/keys/{quote(config.key_id, safe='')}/credentials/generate-ice-servers",
            _CloudflareAnswer,
            json={"ttl": int(config.ttl)},
            headers={"Authorization": f"Bearer {config.api_token}"},
        )
        return IceGrant(_usable(answer.iceServers), asked + int(config.ttl))


class TwilioSource:
    """Twilio's Network Traversal Service: https://www.twilio.com/docs/stun-turn/api

    Args:
        config: The section `[ice.twilio]`.
        clock: Unix seconds.
    """

    name = "twilio"

    def __init__(self, config: Twilio, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock

    async def fetch(self) -> IceGrant:
        """See `IceSource`."""
        config = self._config
        login = (config.api_key, config.api_secret) if config.api_key else (config.account_sid, config.auth_token)
        asked = self._clock()
        answer = await _post(
            f"{config.url.rstrip('/')}/2010-04-01/Accounts/{quote(config.account_sid, safe='')}/Tokens.json",
            _TwilioAnswer,
            data={"Ttl": str(int(config.ttl))},
            auth=login,
        )
        try:
            ttl = int(answer.ttl)
        except ValueError:
            raise IceError("the answer's ttl is no number") from None
        return IceGrant(_usable(answer.ice_servers), asked + ttl)


async def _post(url: str, kind: type[_T], **request: Any) -> _T:
    """Make a call and read its answer. Raises IceError, whose text repeats nothing of what was sent or answered."""
    try:
        async with (
            httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client,
            client.stream("POST", url, **request) as response,
        ):
            if response.status_code not in (200, 201):
                raise IceError(f"the API answered {response.status_code}{_hint(response.status_code)}")
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _LONGEST_ANSWER:
                    raise IceError("the answer is too long")
    except httpx2.TimeoutException:
        raise IceError(f"no answer within {TIMEOUT:g} seconds") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise IceError(f"the API cannot be reached ({type(error).__name__})") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        raise IceError("the answer is not as documented") from None


_HINTS: Mapping[int, str] = {401: ": the login is not valid", 403: ": the login may not do this", 404: ": no such key"}


def _hint(status: int) -> str:
    return _HINTS.get(status, "")


def _usable(servers: Iterable[IceServer]) -> tuple[IceServer, ...]:
    """What of an answer a peer connection takes. Raises IceError if there is no TURN server with a login among it."""
    usable = []
    for server in servers:
        urls = [server.urls] if isinstance(server.urls, str) else server.urls
        if urls := [url for url in urls if _URL.fullmatch(url) and not _BLOCKED.search(url)]:
            usable.append(IceServer(urls, server.username, server.credential))
    if not any(server.username and server.credential for server in usable):
        raise IceError("the answer has no TURN server")
    return tuple(usable)
