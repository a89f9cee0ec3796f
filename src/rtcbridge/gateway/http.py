"""Everything of the bridge's port that is no WebSocket: the page, health, and a small HTTP API."""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from rtcbridge.gateway.bridge import Bridge, new_session_id
from rtcbridge.gateway.http_adapter import LimitBody
from rtcbridge.gateway.tokens import NEEDS_KEY, TokenRequest, identify, mint, token_routes
from rtcbridge.ports import TOKEN_LIFETIME, Identity

STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


# A page of any origin that has a key of its own may ask. No cookie means anything here, so none is let through.
_ANY_ORIGIN = Middleware(
    CORSMiddleware, allow_origins=["*"], allow_methods=["GET"], allow_headers=["Authorization"], max_age=600
)


class _Page(StaticFiles):
    """The built page; a browser asks again each time, and mostly hears that nothing has changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update({**_HEADERS, "Cache-Control": "no-cache"})
        return response


def make_app(
    bridge: Bridge, ready: Callable[[], bool], demo_credential: str = "", admin: ASGIApp | None = None
) -> Starlette:
    """Make the ASGI application.

    Args:
        bridge: What the API shows.
        ready: Whether the bridge takes clients.
        demo_credential: A key that the page is given without being asked for one, over loopback only.
        admin: The admin API, if there is one.
    """

    def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(request: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("not ready\n", status_code=503)

    async def demo(request: Request) -> Response:
        if not demo_credential or not _is_loopback(request):
            return _error(404, "Not found.")
        credential = demo_credential
        if bridge.access.guarded and (identity := bridge.auth.identify(credential)) is not None:
            await asyncio.to_thread(bridge.auth.prepare_tokens)
            credential, _ = mint(bridge, identity, TokenRequest(expires_in=TOKEN_LIFETIME))
        return JSONResponse({"credential": credential}, headers={"Cache-Control": "no-store"})

    def pools(request: Request) -> Response:
        identity = identify(request, bridge)
        pool = None if identity is None else bridge.pool_of(identity)
        if pool is None:
            return _error(401, NEEDS_KEY)
        return JSONResponse([each for each in bridge.overview() if each["name"] == pool.spec.name])

    def ice_servers(request: Request) -> Response:
        identity = identify(request, bridge)
        if identity is None:
            return _error(401, NEEDS_KEY)
        return JSONResponse(_ice(bridge, identity), headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[
            Route("/healthz", _async(healthz)),
            Route("/readyz", _async(readyz)),
            Route("/v1/demo", demo),
            Route("/v1/pools", _async(pools)),
            Route("/v1/ice-servers", _async(ice_servers), methods=["GET", "OPTIONS"], middleware=[_ANY_ORIGIN]),
            *token_routes(bridge),
            *([Mount("/v1/admin", admin)] if admin else []),
            Mount("/", _Page(directory=STATIC, html=True)),
        ],
        middleware=[Middleware(LimitBody)],
    )


def _async(handler: Callable[[Request], Response]) -> Callable[..., object]:
    """Run a handler on the event loop: it touches the bridge's state and waits for nothing."""

    async def handle(request: Request) -> Response:
        return handler(request)

    return handle


def _ice(bridge: Bridge, identity: Identity) -> Mapping[str, object]:
    """What a client that is told nothing on its socket is to make its peer connection with."""
    now = bridge.wall()
    grant = bridge.ice_grant(f"{identity.project}-{new_session_id(now)}")
    answer: dict[str, object] = {"ice_servers": msgspec.to_builtins(grant.servers)}
    if bridge.config.ice.policy != "all":
        answer["ice_transport_policy"] = bridge.config.ice.policy
    if grant.expires < inf:
        answer["ttl"] = max(0, int(grant.expires - now))
    return answer


def _error(status: int, text: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def _is_loopback(request: Request) -> bool:
    """Whether a browser on this machine asks for a page of this machine.

    The Host header is looked at as well: a page of another site can make its name resolve to 127.0.0.1
    ("DNS rebinding"), but not change the name that its requests carry.
    """
    if request.client is None or request.scope.get("state", {}).get("proxied"):
        return False
    host = request.url.hostname or ""
    return _names_loopback(request.client.host) and (host == "localhost" or _names_loopback(host))


def _names_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]").removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
