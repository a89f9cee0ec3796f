"""The calls of the Kubernetes API that the provider needs, through lightkube, repeated where that helps."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import msgspec
import yaml
from lightkube import AsyncClient, KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret

from rtcbridge.config import KubernetesOptions
from rtcbridge.ports import ProviderError

ATTEMPTS = 4  # of one call, when it is throttled, fails on the server's side, or its answer is lost
PAGE = 500  # objects in one answer of a list
_BACKOFF = 0.25  # seconds before the second attempt; twice as long before each further one
_LONGEST_PAUSE = 10.0  # seconds; a server that asks for more is not waited for
_PASSING = frozenset({429, 500, 502, 503, 504})
_GONE = 410  # the list began so long ago that its end is not known any more
_LONGEST_REASON = 400
_KUBECONFIG = "~/.kube/config"

Item = Pod | PersistentVolumeClaim | Secret
T = TypeVar("T")
Kind = TypeVar("Kind", Pod, PersistentVolumeClaim, Secret)
# What calls raise: of HTTP, of answers that are none, and of credentials that come from a file or a program.
_UNUSABLE = (httpx2.HTTPError, msgspec.MsgspecError, KeyError, ValueError, ConfigError, OSError)
# What a kubeconfig file that is none makes lightkube raise.
_BROKEN = (
    ConfigError,
    OSError,
    yaml.YAMLError,
    msgspec.ValidationError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
)


class KubeApi:
    """A client that connects when it is first used. Its methods raise what `errors()` turns into ProviderErrors."""

    def __init__(self, options: KubernetesOptions) -> None:
        """Nothing is read or asked yet."""
        self._options = options
        self._client: AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def get(self, kind: type[Kind], name: str) -> Kind | None:
        """Return the object of this name, if there is one."""
        try:
            return await self._call(lambda client: client.get(kind, name))
        except ApiError as error:
            if error.status.code == 404:
                return None
            raise

    async def create(self, wanted: Kind) -> Kind | None:
        """Make an object and return it as the API has it; None if there is one of this name."""
        try:
            return await self._call(lambda client: client.create(wanted), on_conflict=True)
        except ApiError as error:
            if error.status.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, wanted: Secret) -> bool:
        """Replace an object; false if it has changed since its `resourceVersion`, or is gone."""
        try:
            await self._call(lambda client: client.replace(wanted))
        except ApiError as error:
            if error.status.code in (404, 409):
                return False
            raise
        return True

    async def delete(self, kind: type[Item], name: str) -> None:
        """Begin to delete an object: finalizers and the grace period take their time. None there is no error."""
        try:
            await self._call(lambda client: client.delete(kind, name))
        except ApiError as error:
            if error.status.code != 404:
                raise

    async def list(self, kind: type[Kind], labels: Mapping[str, str]) -> tuple[list[Kind], str]:
        """Return the objects with these labels, page by page, and the version of that list."""

        async def pages(client: AsyncClient) -> tuple[list[Kind], str]:
            found = client.list(kind, labels=dict(labels), chunk_size=PAGE)
            items = [item async for item in found]
            return items, found.resourceVersion

        return await self._call(pages)

    async def watch(self, kind: type[Kind], labels: Mapping[str, str], version: str) -> AsyncIterator[tuple[str, Kind]]:
        """Yield each change since a version of the list: ADDED, MODIFIED or DELETED, and the object.

        It ends with an error only: 410 when the version is too old, whatever else when the connection breaks.
        """
        changes: Any = self._connect().watch(kind, labels=dict(labels), resource_version=version)
        try:
            async for change, item in changes:
                if change in ("ADDED", "MODIFIED", "DELETED"):
                    yield change, item
        finally:
            await changes.aclose()

    async def _call(self, make: Callable[[AsyncClient], Awaitable[T]], *, on_conflict: bool = False) -> T:
        """Make a call, again if that helps; `on_conflict`: also when it met another one, as of quotas."""
        for attempt in range(ATTEMPTS):
            try:
                return await make(self._connect())
            except httpx2.HTTPError as error:
                conflict = isinstance(error, ApiError) and error.status.reason == "Conflict"
                pause = _BACKOFF * (1 << attempt) if conflict and on_conflict else _pause(error, attempt)
                if pause is None or attempt == ATTEMPTS - 1:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("not reached")

    def _connect(self) -> AsyncClient:
        if self._client is None:
            try:
                config = _config(self._options)
                self._client = AsyncClient(
                    config=config,
                    namespace=self._options.namespace or None,
                    timeout=httpx2.Timeout(self._options.timeout),
                )
            except _BROKEN as error:
                raise ProviderError(f"kubeconfig: {_kubeconfig_mistake(error)}") from None
        return self._client


@contextmanager
def errors(verb: str, timeout: float, secrets: Callable[[], Iterator[str]]) -> Iterator[None]:
    """Turn what the API or the way to it refuses into a ProviderError of one line, without any of `secrets`."""
    try:
        yield
    except ProviderError as error:
        raise ProviderError(f"{verb}: {error}") from None
    except _UNUSABLE as error:
        raise ProviderError(f"{verb}: {short_reason(reason(error, timeout), secrets())}") from None


def reason(error: Exception, timeout: float) -> str:
    """Return what an error means, in words."""
    match error:
        case ApiError():
            return error.status.message or f"{error.status.reason or 'refused'} ({error.status.code})"
        case httpx2.HTTPStatusError():
            return f"the API server answers {error.response.status_code} {error.response.reason_phrase}".strip()
        case httpx2.TimeoutException():
            return f"the API server does not answer within {timeout:g} s"
        case httpx2.HTTPError():
            return f"the API server cannot be reached: {error or type(error).__name__}"
        case ConfigError() | OSError():
            return f"the credentials cannot be had: {error}"
        case _:
            return f"the API server's answer is not understood: {error}"


def short_reason(text: str, secrets: Iterator[str]) -> str:
    """Return a refusal on one line, cut, and without any of `secrets`."""
    for secret in secrets:
        if len(secret) > 7:
            text = text.replace(secret, "…")
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def is_gone(error: Exception) -> bool:
    """Say whether a version is too old to go on from, by the status of an answer or by an event of a watch."""
    if isinstance(error, ApiError):
        return error.status.code == _GONE
    return isinstance(error, httpx2.HTTPStatusError) and error.response.status_code == _GONE


def _pause(error: httpx2.HTTPError, attempt: int) -> float | None:
    """Return how long to wait before a call is repeated, in seconds; None if it is not."""
    backoff = _BACKOFF * (1 << attempt)
    if is_gone(error):
        return 0.0  # a list begins anew
    if not isinstance(error, httpx2.HTTPStatusError):
        return backoff
    if error.response.status_code not in _PASSING:
        return None
    asked: str = error.response.headers.get("Retry-After", "")
    wanted = max(backoff, float(asked)) if asked.isascii() and asked.isdigit() else backoff
    return wanted if wanted <= _LONGEST_PAUSE else None


def _config(options: KubernetesOptions) -> SingleConfig:
    """Return the cluster, the user and the namespace. Raises what a broken file makes lightkube raise."""
    if options.kubeconfig or options.context:
        file = options.kubeconfig or os.environ.get("KUBECONFIG") or _KUBECONFIG
        found = KubeConfig.from_file(file).get(options.context or None)
    else:
        found = _default().get()
    assert found is not None  # get() gives None only as its own default
    return found if found.user else found._replace(user=User())


def _default() -> KubeConfig:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return KubeConfig.from_env()
    return KubeConfig.from_file(os.environ.get("KUBECONFIG") or _KUBECONFIG)


def _kubeconfig_mistake(error: Exception) -> str:
    match error:
        case OSError(strerror=str(text), filename=name) if name:
            return f"{name}: {text}"
        case KeyError():
            return f"there is no {error.args[0]!r} in it"
        case _:
            return " ".join(str(error).split())[:_LONGEST_REASON]
