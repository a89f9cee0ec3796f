"""coturn's time-limited credentials: `use-auth-secret` and `static-auth-secret` in its configuration.

After "A REST API For Access To TURN Services" (draft-uberti-behave-turn-rest-00, section 2.2) and coturn's
README.turnserver: the user's name is the Unix time at which the credential expires, a colon, and any text; the
password is base64(HMAC-SHA1(secret, name)). The server needs to be asked nothing, and keeps no list.
"""

import base64
import hmac
from collections.abc import Callable

from rtcbridge.config import Coturn
from rtcbridge.core.messages import IceServer
from rtcbridge.ports import IceGrant


def password(secret: str, username: str) -> str:
    """The password that belongs to a time-limited user name."""
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()


class CoturnServers:
    """A credential for each that asks, made here.

    Args:
        config: The section `[ice.coturn]`.
        clock: Unix seconds. That of the server must agree to within less than `ttl`.
    """

    def __init__(self, config: Coturn, clock: Callable[[], float]) -> None:
        self._urls = list(config.urls)
        self._secret = config.secret
        self._ttl = config.ttl
        self._clock = clock

    def grant(self, user: str) -> IceGrant:
        """See `IceServers`; `user` is in the user's name, and so in coturn's log."""
        expires = int(self._clock() + self._ttl)
        username = f"{expires}:{user}"
        return IceGrant((IceServer(self._urls, username, password(self._secret, username)),), float(expires))

    async def start(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Nothing is to be done."""
