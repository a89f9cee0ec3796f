"""A fake of the Kubernetes API over real HTTP, for Pods, claims and secrets of one namespace.

It is a fake, written from the API's documentation, and no API server. It keeps to: one resourceVersion that every
change moves on; 409 for a name that is taken and for a replacement of an old version; equality selectors of labels;
lists in pages of one snapshot, and watches that go on from a version, both with 410 when that is compacted;
deletion in two steps (deletionTimestamp, then gone, by grace period and finalizers); garbage collection by owner;
quotas and admission that refuse before a taken name is noticed; bearer tokens.

It does not show: a real scheduler, kubelet or network; other kinds of selectors, field validation beyond a few
checks, RBAC beyond plurals and verbs, server-side apply, the watch cache's own delays, several API servers behind a
balancer, API priority and fairness; nor that the texts of its errors are exactly those of a given version.
"""

import asyncio
import copy
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

NAMESPACE = "video"
TOKEN = "a token of the test"
KINDS = {"pods": "Pod", "persistentvolumeclaims": "PersistentVolumeClaim", "secrets": "Secret"}
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")
PROTECTION = "kubernetes.io/pvc-protection"

Object = dict[str, Any]


class RefusalError(Exception):
    """An answer that is a Status of failure."""

    def __init__(self, code: int, reason: str, message: str, retry_after: str = "", **details: Any) -> None:
        self.code, self.retry_after = code, retry_after
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


@dataclass
class Fault:
    """What goes wrong, `times` times, with requests of a method and a plural."""

    method: str
    plural: str
    refusal: RefusalError | None = None
    body: str = ""  # an answer that is no Status, such as a proxy's
    drop: str = ""  # "before" or "after" the request is done; "silent": no answer ever comes
    watch: bool = False
    times: int = 1


class KubeApi:
    """Serves in the running loop.

    Attributes:
        objects: by plural and name.
        calls: methods and plurals that came in, in order; "WATCH" for watches.
        faults: those to come; the first that matches is used up first.
        quota: the most objects of a plural.
        allowed: plurals and verbs that are; None for all.
        admission: each may refuse a new object.
        hooks: told of each change: its type, the plural, the object.
        watches: how many are open.
        page_limit: objects in a page, if fewer than the client asks for.
        compact_before_page: the versions are compacted once before the next page of a list that goes on.
        gone_by_status: a watch from a compacted version gets the status 410, not an event.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.quota: dict[str, int] = {}
        self.allowed: set[tuple[str, str]] | None = None
        self.admission: list[Callable[[str, Object], None]] = []
        self.hooks: list[Callable[[str, str, Object], None]] = []
        self.watches = 0
        self.gone_by_status = False
        self.page_limit = 10_000
        self.compact_before_page = False
        self.requests: list[tuple[str, Any]] = []  # what came in with a body
        self._version = 1000
        self._compacted = 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._snapshots: dict[str, tuple[int, list[Object]]] = {}
        self._numbers = itertools.count(1)
        self._listeners: set[asyncio.Queue[tuple[int, str, str, Object] | None]] = set()
        self._closing = asyncio.Event()

    async def start(self) -> str:
        """Listen; return the address."""
        app = web.Application(middlewares=[self._around])
        base = "/api/v1/namespaces/{namespace}/{plural}"
        app.router.add_get(base, self._list)
        app.router.add_post(base, self._create)
        app.router.add_get(f"{base}/{{name}}", self._get)
        app.router.add_put(f"{base}/{{name}}", self._replace)
        app.router.add_delete(f"{base}/{{name}}", self._delete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        self._closing.set()
        self.end_watches()
        await self._runner.cleanup()

    # --- for tests and controllers ---

    def all(self, plural: str) -> dict[str, Object]:
        return {name: item for (kind, name), item in self.objects.items() if kind == plural}

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def compact(self) -> None:
        """Forget all versions but the present one, as etcd does every five minutes."""
        self._compacted = self._version
        self._events.clear()

    def end_watches(self) -> None:
        """Close the open watches, as the server does after some minutes, or when it is restarted."""
        for listener in self._listeners:
            listener.put_nowait(None)

    def expire_watches(self) -> None:
        """Tell the open watches that their version is too old."""
        status = RefusalError(410, "Expired", "The resourceVersion for the provided watch is too old.").status
        for listener in self._listeners:
            listener.put_nowait((self._version, "ERROR", "", status))

    def put(self, plural: str, item: Object) -> Object:
        """Store what a controller has changed."""
        self._store("MODIFIED", plural, item)
        return item

    def remove(self, plural: str, item: Object) -> None:
        """Remove an object for good; what it owned goes with it."""
        meta = item["metadata"]
        held = self.objects.get((plural, meta["name"]))
        if held is None or held["metadata"]["uid"] != meta["uid"]:
            return
        del self.objects[plural, meta["name"]]
        self._store("DELETED", plural, held)
        for kind, other in [(kind, other) for (kind, _), other in self.objects.items()]:
            owners = other["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == meta["uid"] for owner in owners):
                self.remove(kind, other)
        self._release_claims()

    def _store(self, change: str, plural: str, item: Object) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        if change != "DELETED":
            self.objects[plural, item["metadata"]["name"]] = item
        event = (self._version, change, plural, copy.deepcopy(item))
        self._events.append(event)
        for listener in self._listeners:
            listener.put_nowait(event)
        for hook in self.hooks:
            hook(change, plural, item)

    def _release_claims(self) -> None:
        """Take the finalizer from claims that are being deleted and that no Pod uses: they go."""
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for pod in self.all("pods").values()
            for volume in pod["spec"].get("volumes", ())
            if "persistentVolumeClaim" in volume
        }
        for name, claim in self.all("persistentvolumeclaims").items():
            if "deletionTimestamp" in claim["metadata"] and name not in used:
                self.remove("persistentvolumeclaims", claim)

    # --- HTTP ---

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        plural = request.match_info.get("plural", "")
        watch = request.query.get("watch") == "true"
        self.calls.append(f"{'WATCH' if watch else request.method} {plural}")
        try:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusalError(401, "Unauthorized", "Unauthorized")
            self._allow(request, plural, watch)
            fault = self._fault(request.method, plural, watch)
            if fault is not None and fault.refusal is not None:
                raise fault.refusal
            if fault is not None and fault.body:
                return web.Response(status=502, text=fault.body, content_type="text/html")
            if fault is not None and fault.drop in ("before", "silent"):
                return await self._drop(request, fault.drop)
            if request.match_info.get("namespace") != NAMESPACE or plural not in KINDS:
                raise RefusalError(404, "NotFound", "namespaces not found")
            answer: web.StreamResponse = await handler(request, plural)
            return await self._drop(request, "after") if fault is not None else answer
        except RefusalError as refused:
            headers = {"Retry-After": refused.retry_after} if refused.retry_after else {}
            return answered(refused.status, status=refused.code, headers=headers)

    def _allow(self, request: web.Request, plural: str, watch: bool) -> None:
        named = "name" in request.match_info
        verbs = {"POST": "create", "PUT": "update", "DELETE": "delete", "GET": "get" if named else "list"}
        verb = "watch" if watch else verbs[request.method]
        if self.allowed is not None and (plural, verb) not in self.allowed:
            message = f'{plural} is forbidden: User "bridge" cannot {verb} resource "{plural}"'
            raise RefusalError(403, "Forbidden", message)

    async def _drop(self, request: web.Request, how: str) -> web.StreamResponse:
        if how == "silent":
            await self._closing.wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    def _fault(self, method: str, plural: str, watch: bool) -> Fault | None:
        for fault in self.faults:
            if fault.times and (fault.method, fault.plural, fault.watch) == (method, plural, watch):
                fault.times -= 1
                return fault
        return None

    def _found(self, plural: str, name: str) -> Object:
        item = self.objects.get((plural, name))
        if item is None:
            raise RefusalError(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
        return item

    async def _get(self, request: web.Request, plural: str) -> web.StreamResponse:
        return answered(self._found(plural, request.match_info["name"]))

    async def _create(self, request: web.Request, plural: str) -> web.StreamResponse:
        item: Object = await request.json()
        self.requests.append((f"POST {plural}", item))
        check(plural, item)
        name = item["metadata"]["name"]
        for admit in self.admission:
            admit(plural, item)
        if len(self.all(plural)) >= self.quota.get(plural, 1 << 30):
            used = f"requested: count/{plural}=1, used: count/{plural}={self.quota[plural]}"
            raise RefusalError(403, "Forbidden", f'{plural} "{name}" is forbidden: exceeded quota: team, {used}')
        if (plural, name) in self.objects:
            ending = "deletionTimestamp" in self.objects[plural, name]["metadata"]
            message = f'{plural} "{name}" already exists'
            raise RefusalError(409, "AlreadyExists", f"object is being deleted: {message}" if ending else message)
        number = next(self._numbers)
        item["metadata"] |= {
            "namespace": NAMESPACE,
            "uid": f"00000000-0000-0000-0000-{number:012}",
            "creationTimestamp": now(),
        }
        if plural == "persistentvolumeclaims":
            item["metadata"]["finalizers"] = [PROTECTION]
        if plural != "secrets":
            item["status"] = {"phase": "Pending"}
        self._store("ADDED", plural, item)
        return answered(item, status=201)

    async def _replace(self, request: web.Request, plural: str) -> web.StreamResponse:
        item: Object = await request.json()
        self.requests.append((f"PUT {plural}", item))
        check(plural, item)
        there = self._found(plural, request.match_info["name"])
        version = item["metadata"].get("resourceVersion")
        if version and version != there["metadata"]["resourceVersion"]:
            what = f'Operation cannot be fulfilled on {plural} "{item["metadata"]["name"]}"'
            raise RefusalError(
                409, "Conflict", f"{what}: the object has been modified; please apply your changes again"
            )
        kept = ("uid", "creationTimestamp", "namespace")
        item["metadata"] |= {key: there["metadata"][key] for key in kept}
        self._store("MODIFIED", plural, item)
        return answered(item)

    async def _delete(self, request: web.Request, plural: str) -> web.StreamResponse:
        item = self._found(plural, request.match_info["name"])
        meta = item["metadata"]
        grace = 0
        if plural == "pods" and item["spec"].get("nodeName"):
            default = item["spec"].get("terminationGracePeriodSeconds", 30)
            grace = int(request.query.get("gracePeriodSeconds", default))
        if grace == 0 and not meta.get("finalizers"):
            self.remove(plural, item)
            return answered({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        if "deletionTimestamp" not in meta:
            meta |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
            self._store("MODIFIED", plural, item)
            self._release_claims()
        return answered(item)

    # --- lists and watches ---

    async def _list(self, request: web.Request, plural: str) -> web.StreamResponse:
        wanted = selector(request.query.get("labelSelector", ""))
        if request.query.get("watch") == "true":
            return await self._watch(request, plural, wanted)
        limit = min(int(request.query.get("limit", self.page_limit)), self.page_limit)
        if token := request.query.get("continue"):
            if self.compact_before_page:
                self.compact_before_page = False
                self._version += 1
                self.compact()
            version, items = self._snapshots.pop(token, (-1, []))
            if version < self._compacted:
                raise RefusalError(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list"
                )
        else:
            version = self._version
            items = [copy.deepcopy(item) for item in self.all(plural).values() if matches(item, wanted)]
            items.sort(key=lambda item: str(item["metadata"]["name"]))
        meta: Object = {"resourceVersion": str(version)}
        if items[limit:]:
            meta |= {"continue": f"token-{next(self._numbers)}", "remainingItemCount": len(items) - limit}
            self._snapshots[meta["continue"]] = version, items[limit:]
        body = {"kind": f"{KINDS[plural]}List", "apiVersion": "v1", "metadata": meta, "items": items[:limit]}
        return answered(body)

    async def _watch(self, request: web.Request, plural: str, wanted: dict[str, str]) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or self._version)
        too_old = RefusalError(410, "Expired", f"too old resource version: {since} ({self._compacted})")
        if since < self._compacted and self.gone_by_status:
            raise too_old
        listener: asyncio.Queue[tuple[int, str, str, Object] | None] = asyncio.Queue()
        for event in self._events:
            listener.put_nowait(event)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._listeners.add(listener)
        self.watches += 1
        try:
            if since < self._compacted:
                await response.write(line("ERROR", too_old.status))
                return response
            while (found := await listener.get()) is not None:
                version, change, kind, item = found
                if change == "ERROR":
                    await response.write(line(change, item))
                    return response
                if kind == plural and version > since and matches(item, wanted):
                    await response.write(line(change, item))
        except ConnectionError:
            pass
        finally:
            self._listeners.discard(listener)
            self.watches -= 1
        return response


def answered(body: Object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # Exactly this type, without the charset that aiohttp would add.
    content = {"Content-Type": "application/json", **(headers or {})}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=content)


def line(change: str, item: Object) -> bytes:
    return json.dumps({"type": change, "object": item}).encode() + b"\n"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def selector(text: str) -> dict[str, str]:
    """`a=b,c=d`; the other kinds are not known here."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not equal or key.endswith("!") for key, equal, _ in pairs):
        raise RefusalError(400, "BadRequest", f"unable to parse requirement: {text}")
    return {key: value for key, _, value in pairs}


def matches(item: Object, wanted: dict[str, str]) -> bool:
    return wanted.items() <= item["metadata"].get("labels", {}).items()


def check(plural: str, item: Object) -> None:
    """Refuse what the API refuses, as far as a mistake of ours may come to it."""
    meta, kind = item.get("metadata", {}), KINDS[plural]
    name, mistakes = meta.get("name", ""), []
    if (item.get("apiVersion"), item.get("kind")) != ("v1", kind):
        raise RefusalError(400, "BadRequest", f"the object provided is unrecognized: expected a {kind}")
    if not SUBDOMAIN.match(name):
        mistakes.append(f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of …')
    for key, value in meta.get("labels", {}).items():
        if not LABEL_VALUE.match(value):
            mistakes.append(f'metadata.labels: Invalid value: "{value}": a valid label {key} must be …')
    if plural == "pods":
        mistakes += pod_mistakes(item.get("spec", {}))
    if plural == "persistentvolumeclaims":
        spec = item.get("spec", {})
        if not spec.get("accessModes"):
            mistakes.append("spec.accessModes: Required value: at least 1 access mode is required")
        if "storage" not in spec.get("resources", {}).get("requests", {}):
            mistakes.append("spec.resources[storage]: Required value")
    if mistakes:
        text = mistakes[0] if len(mistakes) == 1 else f"[{', '.join(mistakes)}]"
        raise RefusalError(422, "Invalid", f'{kind} "{name}" is invalid: {text}')


def pod_mistakes(spec: Object) -> list[str]:
    mistakes = []
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    if not spec.get("containers"):
        mistakes.append("spec.containers: Required value")
    for index, container in enumerate(spec.get("containers", ())):
        here = f"spec.containers[{index}]"
        mistakes += [f"{here}.{key}: Required value" for key in ("name", "image") if not container.get(key)]
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                mistakes.append(f'{here}.volumeMounts[0].name: Not found: "{mount["name"]}"')
        for key, value in container.get("resources", {}).get("limits", {}).items():
            if "/" in key and not value.isdigit():
                mistakes.append(f'{here}.resources.limits[{key}]: Invalid value: "{value}": must be an integer')
    if spec.get("restartPolicy", "Always") not in ("Always", "OnFailure", "Never"):
        mistakes.append("spec.restartPolicy: Unsupported value")
    return mistakes
