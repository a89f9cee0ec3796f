"""Nodes as Pods of a Kubernetes cluster, through lightkube.

A node is a volume claim, a secret with its environment, and, while it is not stopped, a Pod. All three have one
name and the labels of their pool, and what they bear is all that is known of them: nothing is remembered here, so
that a bridge that was killed at any moment finds its nodes again.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret

from rtcbridge.config import KubernetesOptions
from rtcbridge.drivers.providers import kubernetes_pod as wanted
from rtcbridge.drivers.providers.kubernetes_api import Item, KubeApi, errors
from rtcbridge.drivers.providers.kubernetes_state import is_ending, is_finished, machines, node_of, trouble
from rtcbridge.drivers.providers.kubernetes_view import KubeView
from rtcbridge.ports import Launch, Machine, ProviderError

log = structlog.get_logger(__name__)

_GLANCE = 1.0  # seconds between two looks at what the watch tells: these ask nobody
_KINDS = {PersistentVolumeClaim: "volume claim", Pod: "Pod", Secret: "secret"}
Kind = TypeVar("Kind", Pod, PersistentVolumeClaim, Secret)


class KubernetesProvider:
    """`Provider` of one pool's Pods. Stopping a node deletes its Pod and keeps its volume claim.

    Attributes:
        list_interval: seconds between two looks; few while the watch of Pods goes well.
        troubles: nodes that do not get on, such as for want of a GPU or of their image, with the reason.
    """

    def __init__(self, pool: str, options: KubernetesOptions, *, poll: float = 0.5) -> None:
        """Nothing is asked of the cluster yet.

        Args:
            pool: its name, a label of all that is its own.
            options: `[pools.kubernetes]`.
            poll: seconds between two looks at what must be gone first.

        Raises:
            ConfigError: the Pod template is not usable.
        """
        self.list_interval = options.list_interval
        self.troubles: Mapping[str, str] = {}
        self._pool = pool
        self._options = options
        self._poll = poll
        self._template = wanted.read_template(options.pod_template)
        wanted.pod(options, Launch("node", pool, "", ""), self._template)
        self._api = KubeApi(options)
        self._view = KubeView(self._api, wanted.selector(pool), options.list_interval, options.timeout)

    async def create(self, launch: Launch) -> None:
        """Make the claim, the secret and the Pod, as far as they are not there. Raises ProviderError."""
        async with self._operation("create", launch):
            await self._bring(launch, await self._ensure(wanted.claim(self._options, launch)))

    async def start(self, launch: Launch) -> None:
        """Make a new Pod on the claim, as soon as the former one has gone. Raises ProviderError."""
        async with self._operation("start", launch):
            claim = await self._find(PersistentVolumeClaim, launch)
            if claim is None or is_ending(claim):
                raise _missing(launch)
            await self._bring(launch, claim)

    async def stop(self, launch: Launch) -> None:
        """Begin to delete the Pod, and keep the claim. Raises ProviderError."""
        async with self._operation("stop", launch):
            there = await self._remove(Pod, launch)
            if not there and await self._find(PersistentVolumeClaim, launch) is None:
                raise _missing(launch)

    async def destroy(self, launch: Launch) -> None:
        """Begin to delete the Pod and the claim, and delete the secret. Raises ProviderError."""
        async with self._operation("destroy", launch):
            # The claim goes last: without a Pod, it alone says that there is something left.
            await self._remove(Pod, launch)
            await self._remove(Secret, launch)
            await self._remove(PersistentVolumeClaim, launch)

    async def list(self) -> Mapping[str, Machine] | None:
        """Return how the node of each Pod and claim of the pool stands. Raises ProviderError."""
        self.list_interval = self._options.list_interval
        with errors("list", self._options.timeout, self._secrets):
            pods, claims = await self._view.look()
        if self._view.watching:
            self.list_interval = min(_GLANCE, self.list_interval)
        self._tell(_told(pods, trouble))
        return machines(pods, claims)

    async def close(self) -> None:
        """End the watch and close the connections; the Pods go on."""
        await self._view.close()
        await self._api.close()

    async def _bring(self, launch: Launch, claim: PersistentVolumeClaim) -> None:
        await self._keep_secret(launch, claim)
        await self._ensure(wanted.pod(self._options, launch, self._template))

    async def _ensure(self, item: Kind) -> Kind:
        """Make an object, if it is not there, as soon as its predecessor has gone; return the one that is there."""
        kind, name = type(item), item.metadata.name if item.metadata else None
        deadline = self._deadline()
        while True:
            # Asked first: a quota that is used up refuses to make even what is there.
            there = await self._get(kind, item)
            if there is None:
                there = await self._api.create(item)
            if there is not None and not is_ending(there):
                if not (isinstance(there, Pod) and is_finished(there)):
                    return there
                await self._delete(there)
            if time.monotonic() > deadline:
                raise ProviderError(f"the former {_KINDS[kind]} {name} is still being deleted")
            await asyncio.sleep(self._poll)

    async def _keep_secret(self, launch: Launch, claim: PersistentVolumeClaim) -> None:
        """Let the secret say what it must: the bridge's address may have changed since the last start."""
        assert claim.metadata is not None
        item = wanted.secret(self._options, launch, claim.metadata, os.environ)
        assert item.metadata is not None
        deadline = self._deadline()
        while time.monotonic() < deadline:
            there = await self._ensure(item)
            assert there.metadata is not None
            owners = [each.uid for each in there.metadata.ownerReferences or ()]
            if there.data == item.data and owners == [claim.metadata.uid]:
                return
            item.metadata.resourceVersion = there.metadata.resourceVersion
            if await self._api.replace(item):
                return
            item.metadata.resourceVersion = None
        raise ProviderError(f"the secret {item.metadata.name} changes all the time")

    # --- whose is it? ---

    async def _find(self, kind: type[Kind], launch: Launch) -> Kind | None:
        """Return the object of a node, if there is one. Raises ProviderError for another's."""
        return self._own(await self._api.get(kind, wanted.object_name(launch.node)), launch.node)

    async def _get(self, kind: type[Kind], item: Kind) -> Kind | None:
        assert item.metadata is not None
        name, notes = item.metadata.name or "", item.metadata.annotations or {}
        return self._own(await self._api.get(kind, name), notes[wanted.NODE])

    def _own(self, item: Kind | None, node: str) -> Kind | None:
        if item is None:
            return None
        meta = item.metadata
        notes = (meta.annotations if meta else None) or {}
        labels = (meta.labels if meta else None) or {}
        owned = (notes.get(wanted.NODE), notes.get(wanted.POOL)) == (node, self._pool)
        if not owned or not wanted.selector(self._pool).items() <= labels.items():
            name = meta.name if meta else ""
            raise ProviderError(f"the {_KINDS[type(item)]} {name} is not of pool {self._pool}")
        return item

    async def _remove(self, kind: type[Kind], launch: Launch) -> bool:
        """Delete the object of a node; false if there is none."""
        found = await self._find(kind, launch)
        if found is not None:
            await self._delete(found)
        return found is not None

    async def _delete(self, item: Item) -> None:
        if not is_ending(item) and item.metadata and item.metadata.name:
            await self._api.delete(type(item), item.metadata.name)

    # --- around each operation ---

    @asynccontextmanager
    async def _operation(self, verb: str, launch: Launch) -> AsyncIterator[None]:
        """Make errors of what goes wrong, and let the next look be at what was changed."""
        try:
            with errors(verb, self._options.timeout, lambda: self._secrets(launch)):
                yield
        finally:
            self._view.wrote()

    def _deadline(self) -> float:
        return time.monotonic() + self._options.stop_grace + self._options.timeout

    def _secrets(self, launch: Launch | None = None) -> Iterator[str]:
        yield from wanted.secrets_of(self._options, os.environ)
        if launch is not None:
            yield launch.token

    def _tell(self, troubles: Mapping[str, str]) -> None:
        """Log what holds a node up, once."""
        for node, why in troubles.items():
            if self.troubles.get(node) != why:
                log.warning("a Pod does not get on", pool=self._pool, node=node, reason=why)
        self.troubles = troubles


def _told(pods: Iterable[Pod], what: Callable[[Pod], str]) -> Mapping[str, str]:
    told = {node_of(pod): what(pod) for pod in pods}
    return {node: text for node, text in told.items() if node and text}


def _missing(launch: Launch) -> ProviderError:
    return ProviderError(f"there is no volume claim of node {launch.node}")
