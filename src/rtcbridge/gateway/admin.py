"""The admin API, `/v1/admin/…`: what is there, and what may be done to it. docs/admin-api.md is its reference.

Everything runs on the event loop and walks what it shows once; answers come in pages, so that none takes long.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
import structlog
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rtcbridge.config import ConfigError
from rtcbridge.core.events import Cancelled, Source
from rtcbridge.core.node import NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State
from rtcbridge.gateway.actions import ActionError, Actions
from rtcbridge.gateway.bodies import read_body
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.overrides import Overrides
from rtcbridge.gateway.recent import Throttle
from rtcbridge.gateway.viewer import Viewer
from rtcbridge.gateway.views import BridgeView, PoolView, SessionView
from rtcbridge.ports import LedgerError

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.desk import Desk

log = structlog.get_logger(__name__)

MAX_PAGE = 1000
"""Items of a page, unless `MAX_PAGE_BYTES` ends it before."""

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of a page beyond which no further item is put on it."""

_PAGE = 100
_NODE_ACTIONS = frozenset({"drain", "stop", "start", "destroy"})
_T = TypeVar("_T")
_States = TypeVar("_States", bound=Enum)
_Handler = Callable[[Request], Awaitable[Response]]


class _EndSession(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z")] = ""


class _Page(NamedTuple):
    """What part of a list is asked for: `limit` ids behind `after`, in rising or falling order.

    The cursor is an id and no place, so that nothing is missed or shown twice when others come and go. Ids of
    sessions begin with their time: those of a dict are nearly sorted already, which makes sorting them cheap.
    """

    limit: int
    after: str
    newest: bool

    def choose(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of this page, and one more if there are more."""
        every = sorted(ids)
        if self.newest:
            end = bisect_left(every, self.after) if self.after else len(every)
            return every[max(0, end - self.limit - 1) : end][::-1]
        start = bisect_right(every, self.after)
        return every[start : start + self.limit + 1]

    def answer(self, ids: list[str], show: Callable[[str], Struct]) -> Response:
        """Make the answer: the items, and where the next page begins."""
        items: list[bytes] = []
        size = 0
        for id in ids[: self.limit]:
            if size > MAX_PAGE_BYTES:
                break
            items.append(msgspec.json.encode(show(id)))
            size += len(items[-1])
        more = ids[len(items) - 1] if len(items) < len(ids) else None
        return _json(b'{"items":[%b],"next":%b}' % (b",".join(items), msgspec.json.encode(more)))


class Admin:
    """The endpoints.

    Args:
        bridge: What is shown and acted upon.

    Attributes:
        overrides: Settings of pools that are changed at run time.
        actions: What may be done to nodes; None until the bridge has started.
        desk: What other bridges have that share the pools; None for one that is alone.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._began = bridge.wall()
        self._throttle = Throttle()
        self.overrides = Overrides(bridge)
        self.actions: Actions | None = None
        self.desk: Desk | None = None

    def app(self) -> ASGIApp:
        """Make the application, to be mounted at `/v1/admin`. Every request needs an admin key."""
        routes = [
            ("GET", "/bridge", self._info),
            ("GET", "/pools", self._pools),
            ("GET", "/pools/{pool}", self._one_pool),
            ("PATCH", "/pools/{pool}", self._change_pool),
            ("GET", "/nodes", self._nodes),
            ("GET", "/nodes/{node}", self._one_node),
            ("POST", "/nodes/{node}/{action}", self._act),
            ("GET", "/sessions", self._sessions),
            ("GET", "/sessions/{session}", self._one_session),
            ("POST", "/sessions/{session}/end", self._end),
        ]
        return Starlette(
            routes=[Route(path, self._guarded(handler), methods=[method]) for method, path, handler in routes],
            exception_handlers={HTTPException: self._refused, LedgerError: self._unstored},
        )

    # --- who asks ---

    def _guarded(self, handler: _Handler) -> _Handler:
        async def handle(request: Request) -> Response:
            request.state.key = self._key(request)
            if self.desk is not None:
                await self.desk.look_around()
            return await handler(request)

        return handle

    def _key(self, request: Request) -> str:
        """Return the id of the admin key that a request shows. Raises HTTPException."""
        bridge, now = self._bridge, self._bridge.clock()
        address = request.client.host if request.client else ""
        if self._throttle.blocks(address, now):
            raise HTTPException(429, "Too many wrong keys from this address.", {"Retry-After": "1"})
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        key = bridge.auth.identify_admin(credential.strip() if scheme.lower() == "bearer" else "")
        if key is None:
            self._throttle.failed(address, now)
            log.warning("admin key refused", address=address)
            raise HTTPException(
                401, "A valid admin key is needed: Authorization: Bearer ak_…", {"WWW-Authenticate": "Bearer"}
            )
        return key

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json(msgspec.json.encode({"error": error.detail}), error.status_code, error.headers)

    async def _unstored(self, request: Request, error: Exception) -> Response:
        return _json(msgspec.json.encode({"error": str(error)}), 503)

    # --- what is there ---

    async def _info(self, request: Request) -> Response:
        bridge = self._bridge
        view = BridgeView(
            version=version("rtcbridge"),
            started=self._began,
            now=bridge.wall(),
            pools=len(bridge.pools),
            nodes=len(bridge.nodes),
            sessions=len(bridge.sessions) + len(self._elsewhere()),
            clients=len(bridge.clients),
        )
        return _json(msgspec.json.encode(view))

    async def _pools(self, request: Request) -> Response:
        viewer = Viewer(self._bridge)
        pools = [self._view(viewer, pool) for pool in self._bridge.pools.values()]
        return _json(msgspec.json.encode({"items": pools, "next": None}))

    def _view(self, viewer: Viewer, pool: Pool) -> PoolView:
        pause = self.actions.pause(pool.spec.name) if self.actions else ""
        return viewer.pool(pool, self.overrides.of(pool), pause)

    async def _one_pool(self, request: Request) -> Response:
        return self._shown_pool(self._pool(request))

    def _shown_pool(self, pool: Pool) -> Response:
        return _json(msgspec.json.encode(self._view(Viewer(self._bridge), pool)))

    async def _nodes(self, request: Request) -> Response:
        bridge, viewer, page = self._bridge, Viewer(self._bridge), _page(request)
        pool, state = self._named_pool(request), _state(request, NodeState)
        ids = [
            id
            for id, (its, node) in bridge.nodes.items()
            if (pool is None or its is pool) and (state is None or node.state is state)
        ]
        return page.answer(page.choose(ids), lambda id: viewer.node(bridge.nodes[id][1]))

    async def _one_node(self, request: Request) -> Response:
        _, node = _found(self._bridge.nodes, request.path_params["node"], "node")
        return _json(msgspec.json.encode(Viewer(self._bridge).node(node)))

    def _elsewhere(self) -> Mapping[str, SessionView]:
        """The sessions of other bridges."""
        return {} if self.desk is None else {id: view for id, (_, view) in self.desk.elsewhere.items()}

    async def _sessions(self, request: Request) -> Response:
        bridge, viewer, page, elsewhere = self._bridge, Viewer(self._bridge), _page(request), self._elsewhere()
        pool, query = self._named_pool(request), request.query_params
        node, state, project = query.get("node"), _state(request, State), query.get("project")
        ids = [
            id
            for id, entry in bridge.sessions.items()
            if (pool is None or entry.pool is pool)
            and (node is None or entry.session.node == node)
            and (state is None or entry.session.state is state)
            and (project is None or entry.project == project)
        ] + [
            id
            for id, view in elsewhere.items()
            if id not in bridge.sessions
            and (pool is None or view.pool == pool.spec.name)
            and (node is None or view.node == node)
            and (state is None or view.state == state.value)
            and (project is None or view.project == project)
        ]
        return page.answer(page.choose(ids), lambda id: elsewhere.get(id) or viewer.session(bridge.sessions[id]))

    async def _one_session(self, request: Request) -> Response:
        id = request.path_params["session"]
        if (view := self._elsewhere().get(id)) is None:
            view = Viewer(self._bridge).session(_found(self._bridge.sessions, id, "session"))
        return _json(msgspec.json.encode(view))

    # --- what may be done ---

    async def _act(self, request: Request) -> Response:
        id, action = request.path_params["node"], request.path_params["action"]
        if action not in _NODE_ACTIONS:
            raise HTTPException(404, f"Nodes have no {action}: expected {', '.join(sorted(_NODE_ACTIONS))}.")
        pool, node = _found(self._bridge.nodes, id, "node")
        if self.actions is None:
            raise HTTPException(503, "The bridge is starting.")
        try:
            if self.desk is None or not await self.desk.act(pool.spec.name, id, action):
                await getattr(self.actions, f"{action}_node")(id)
        except ActionError as error:
            self._audit(request, f"{action} node", node=id, refused=str(error))
            raise HTTPException(409 if error.found else 404, str(error)) from None
        self._audit(request, f"{action} node", node=id)
        return _json(msgspec.json.encode(Viewer(self._bridge).node(node)))

    async def _end(self, request: Request) -> Response:
        asked = await read_body(request, _EndSession)
        id = request.path_params["session"]
        reason = "ended by the operator" + (f": {asked.reason}" if asked.reason else "")
        if self.desk is not None and (there := self._elsewhere().get(id)) is not None:
            try:
                await self.desk.end_session(id, reason)
            except ActionError as error:
                raise HTTPException(409 if error.found else 404, str(error)) from None
            self._audit(request, "end session", session=id, node=there.node, reason=asked.reason)
            return _json(msgspec.json.encode(msgspec.structs.replace(there, state=State.ENDED.value)))
        entry = _found(self._bridge.sessions, id, "session")
        view = Viewer(self._bridge).session(entry)
        self._bridge.deliver(entry, Source.OPERATOR, Cancelled(reason))
        self._audit(request, "end session", session=id, node=view.node, reason=asked.reason)
        return _json(msgspec.json.encode(msgspec.structs.replace(view, state=entry.session.state.value)))

    async def _change_pool(self, request: Request) -> Response:
        changes = await read_body(request, dict[str, Any])
        pool = self._pool(request)
        try:
            await self.overrides.change(pool, changes, request.state.key)
        except ConfigError as error:
            self._audit(request, "change pool", pool=pool.spec.name, refused=str(error))
            raise HTTPException(400, str(error)) from None
        self._audit(request, "change pool", pool=pool.spec.name, **changes)
        return self._shown_pool(pool)

    def _audit(self, request: Request, action: str, **facts: object) -> None:
        say = log.warning if "refused" in facts else log.info
        address = request.client.host if request.client else ""
        say("admin", action=action, key=request.state.key, address=address, **facts)

    # --- what a request names ---

    def _pool(self, request: Request) -> Pool:
        return _found(self._bridge.pools, request.path_params["pool"], "pool")

    def _named_pool(self, request: Request) -> Pool | None:
        name = request.query_params.get("pool")
        if name is not None and name not in self._bridge.pools:
            raise HTTPException(400, f"pool: expected one of {', '.join(self._bridge.pools)}, got {_shown(name)}")
        return None if name is None else self._bridge.pools[name]


def _found(things: Mapping[str, _T], id: str, kind: str) -> _T:
    try:
        return things[id]
    except KeyError:
        raise HTTPException(404, f"There is no {kind} {_shown(id)}.") from None


def _shown(text: str) -> str:
    """A caller's own word, as an error repeats it: short, and on one line."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _page(request: Request) -> _Page:
    query = request.query_params
    text = query.get("limit", str(_PAGE))
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise HTTPException(400, f"limit: expected a whole number from 1 to {MAX_PAGE}, got {_shown(text)}")
    order = query.get("order", "oldest")
    if order not in ("oldest", "newest"):
        raise HTTPException(400, f"order: expected oldest or newest, got {_shown(order)}")
    return _Page(int(text), query.get("after", ""), order == "newest")


def _state(request: Request, states: type[_States]) -> _States | None:
    name = request.query_params.get("state")
    if name is None:
        return None
    try:
        return states(name)
    except ValueError:
        names = ", ".join(state.value for state in states)
        raise HTTPException(400, f"state: expected one of {names}, got {_shown(name)}") from None


def _json(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")
