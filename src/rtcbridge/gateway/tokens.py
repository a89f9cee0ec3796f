"""Client tokens over HTTP: `POST /v1/tokens`, and the public keys at `/.well-known/jwks.json`.

No response has a CORS header, and a request from a page of another origin is refused: who asks has a secret key, which
has no business in a page.
"""

import asyncio
import base64
import binascii
import re
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rtcbridge.core.errors import Error
from rtcbridge.gateway.bodies import read_body
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.ports import TOKEN_LIFETIME, Identity, LedgerError, TokenTerms

log = structlog.get_logger(__name__)

DEFAULT_LIFETIME = 60
"""Seconds that a token is valid if nothing else is asked for."""

_YEAR = 31_536_000
_NO_STORE = {"Cache-Control": "no-store"}
_ORIGIN = re.compile(r"https?://[^\s/?#@A-Z]{1,255}\Z")
NEEDS_KEY = "A valid key is needed: Authorization: Bearer sk_…"


class TokenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/tokens`; each field may be left out. Times are in seconds."""

    expires_in: Annotated[int, Meta(ge=1, le=TOKEN_LIFETIME)] = DEFAULT_LIFETIME
    pools: Annotated[tuple[str, ...], Meta(max_length=32)] = ()
    origins: Annotated[tuple[str, ...], Meta(max_length=32)] = ()
    max_session: Annotated[float, Meta(ge=0, le=_YEAR)] = 0.0
    max_sessions: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    @property
    def terms(self) -> TokenTerms:
        """What the token is to allow."""
        return TokenTerms(
            pools=self.pools, origins=self.origins, max_session=self.max_session, max_sessions=self.max_sessions
        )


def token_routes(bridge: Bridge) -> list[Route]:
    """The two routes. `bridge`: whose keys and pools they are about."""

    async def make(request: Request) -> Response:
        try:
            return await _make(request, bridge)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, error.status_code, {**_NO_STORE, **(error.headers or {})})
        except LedgerError as error:
            return JSONResponse({"error": str(error)}, 503, _NO_STORE)

    async def keys(request: Request) -> Response:
        headers = {"Cache-Control": "public, max-age=60"}
        return JSONResponse(bridge.auth.token_keys(), headers=headers, media_type="application/jwk-set+json")

    return [Route("/v1/tokens", make, methods=["POST"]), Route("/.well-known/jwks.json", keys)]


def identify(request: Request, bridge: Bridge) -> Identity | None:
    """Whose key or client token a request shows: `Bearer`, or `Basic` with it as the user name.

    None for no valid one, for that of a node, and for one that may not be shown by the page that sends the request.
    """
    identity = bridge.auth.identify(_credential(request.headers.get("authorization", "")))
    if identity is None or identity.is_node:
        return None
    origin = request.headers.get("origin")
    # Browsers send none with what a page of the bridge itself reads; with what pages of others ask for they always do.
    return identity if origin is None or bridge.access.welcomes(identity, origin) else None


def mint(bridge: Bridge, identity: Identity, asked: TokenRequest) -> tuple[str, int]:
    """Make a client token in the name of a key, once `prepare_tokens` was called; see `Authenticator.make_token`."""
    return bridge.auth.make_token(identity, asked.terms, asked.expires_in)


async def _make(request: Request, bridge: Bridge) -> Response:
    if _is_of_another_page(request):
        raise HTTPException(403, "Secret keys have no business in a page: ask for tokens in your back end.")
    identity = identify(request, bridge)
    if identity is None or (identity.restrictions is not None and identity.restrictions.token):
        raise HTTPException(401, NEEDS_KEY, {"WWW-Authenticate": "Bearer"})
    if not identity.may("tokens"):
        raise HTTPException(403, "The key lacks the scope tokens.")
    asked = await read_body(request, TokenRequest)
    mistake = bridge.access.terms_mistake(identity.project, asked.terms) or _origins_mistake(asked.origins)
    if mistake:
        raise HTTPException(400, mistake)
    if identity.restrictions is not None and not bridge.access.use(identity).create():
        raise HTTPException(429, Error.RATE_LIMITED.text, {"Retry-After": "10"})
    await asyncio.to_thread(bridge.auth.prepare_tokens)
    token, expires = mint(bridge, identity, asked)
    log.debug("client token made", key=identity.key, project=identity.project, expires=expires)
    return JSONResponse({"token": token, "expires_at": expires}, 201, _NO_STORE)


def _origins_mistake(origins: tuple[str, ...]) -> str | None:
    for origin in origins:
        if not _ORIGIN.match(origin):
            return f"origins: expected what browsers send, such as https://app.example, got {origin[:60]!r}"
    return None


def _credential(authorization: str) -> str:
    """The key in an `Authorization` header; "" for none, which is looked up all the same."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_of_another_page(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()
