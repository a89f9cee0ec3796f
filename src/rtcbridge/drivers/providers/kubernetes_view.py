"""What there is of a pool in Kubernetes: a full list now and then, and a watch in between.

See https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

from rtcbridge.drivers.providers.kubernetes_api import KubeApi, is_gone, reason, short_reason

log = structlog.get_logger(__name__)


class KubeView:
    """The Pods and claims with some labels.

    Each full list begins a new watch from that list's version, so that what is seen is always one list and what
    happened since. When a watch ends, for whatever reason, the next look is a full list.

    Attributes:
        watching: False when the last watch ended by an error of its own, not by a version that was too old.
    """

    def __init__(self, api: KubeApi, labels: Mapping[str, str], interval: float, timeout: float) -> None:
        """Nothing is asked yet.

        Args:
            api: where to ask.
            labels: of what is looked for.
            interval: seconds between two full lists while the watch goes well.
            timeout: of a call, as errors name it.
        """
        self.watching = True
        self._api = api
        self._labels = labels
        self._interval = interval
        self._timeout = timeout
        self._pods: dict[str, Pod] = {}  # by uid: a Pod and its successor have one name
        self._claims: list[PersistentVolumeClaim] = []
        self._listed = 0.0
        self._writes = 0  # of this bridge itself …
        self._known_writes = -1  # … and of these, what the last full list must have seen
        self._watch: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def wrote(self) -> None:
        """Something was changed through the API just now: the next look must show it."""
        self._writes += 1

    async def look(self) -> tuple[Sequence[Pod], Sequence[PersistentVolumeClaim]]:
        """Return all Pods and claims, from memory while that is current."""
        async with self._lock:
            if not self._is_current():
                await self._list()
            return list(self._pods.values()), self._claims

    async def close(self) -> None:
        """End the watch."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    def _is_current(self) -> bool:
        return (
            self._watch is not None
            and not self._watch.done()
            and self._known_writes == self._writes
            and time.monotonic() - self._listed < self._interval
        )

    async def _list(self) -> None:
        writes, begun = self._writes, time.monotonic()
        if self._watch is not None and not self._watch.done():
            self.watching = True
        await self.close()
        claims, _ = await self._api.list(PersistentVolumeClaim, self._labels)
        pods, version = await self._api.list(Pod, self._labels)
        self._claims = claims
        self._pods = {_uid(pod): pod for pod in pods}
        self._known_writes, self._listed = writes, begun
        self._watch = asyncio.create_task(self._follow(version), name="watch of Pods")

    async def _follow(self, version: str) -> None:
        """Take in changes until the watch ends."""
        try:
            async for change, pod in self._api.watch(Pod, self._labels, version):
                if change == "DELETED":
                    self._pods.pop(_uid(pod), None)
                else:
                    self._pods[_uid(pod)] = pod
        except Exception as error:
            if is_gone(error):
                return
            text = short_reason(reason(error, self._timeout), iter(()))
            say = log.warning if self.watching else log.debug  # once, and not every time that it is tried again
            say("the watch of Pods has ended; they are listed instead", reason=text)
            self.watching = False


def _uid(pod: Pod) -> str:
    return (pod.metadata.uid if pod.metadata else "") or ""
