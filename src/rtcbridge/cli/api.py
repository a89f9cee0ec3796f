"""The admin API of a running bridge, as commands use it.

On the bridge's own machine `--config` is enough: the lock beside the store says where the bridge listens, and who
can read the store makes a credential of its secret that lasts a minute. From elsewhere it takes an address and a key.
"""

import argparse
import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from rtcbridge.cli import CommandError, UsageError, add_config
from rtcbridge.cli.lock import RunningBridge, UnreachableError, running_bridge
from rtcbridge.config import Config
from rtcbridge.drivers.ledger import admin_token, open_store

ENVIRONMENT = {"url": "RTCBRIDGE_ADMIN_URL", "key": "RTCBRIDGE_ADMIN_KEY", "ca": "RTCBRIDGE_CA"}
"""Options that can come from the environment instead."""

TIMEOUT = 10.0
"""Seconds that a connection, and each part of an answer, may take."""

_LARGEST = 64 * 1024 * 1024  # bytes of an answer
_PAGE = 1000
_T = TypeVar("_T")


def add_api(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Add `--config`, `--url`, `--key` and `--ca`.

    Args:
        parser: Of the command.
        default: `argparse.SUPPRESS` for a command below another that has them too.
    """
    add_config(parser, default)
    parser.add_argument(
        "--url", metavar="URL", default=default, help=f"the bridge, http(s)://HOST:PORT; also {ENVIRONMENT['url']}"
    )
    parser.add_argument(
        "--key",
        metavar="ak_…",
        default=default,
        help=f"of `rtcbridge keys create --admin`; better {ENVIRONMENT['key']}",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        default=default,
        help=f"certificates to trust for https, in PEM; also {ENVIRONMENT['ca']}",
    )


class Api:
    """Calls of one bridge, on one connection that is made again when it breaks.

    Args:
        url: `http://HOST:PORT` or `https://…`.
        key: Returns a credential.
        trust: What is trusted for https; None for the system's authorities.
    """

    def __init__(self, url: str, key: Callable[[], str], trust: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._key = key
        self._trust = trust
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, kind: type[_T], **query: object) -> _T:
        """Return what is there.

        Raises:
            UnreachableError: No bridge answers.
            CommandError: It refuses; the text says why.
            UsageError: It does not understand a value that the command line gave.
        """
        words = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{path}?{urlencode(words)}" if words else path, kind)

    def every(self, path: str, kind: type[_T], **query: object) -> Iterator[_T]:
        """Go through a whole list, page after page. Raises as `get`."""
        after: str | None = ""
        while after is not None:
            page = self.get(path, _Page, limit=_PAGE, after=after, **query)
            yield from (self._decoded(item, kind) for item in page.items)
            after = page.next

    def page(self, path: str, kind: type[_T], **query: object) -> list[_T]:
        """Return the first page of a list. Raises as `get`."""
        return [self._decoded(item, kind) for item in self.get(path, _Page, **query).items]

    def post(self, path: str, kind: type[_T], body: Mapping[str, object] | None = None) -> _T:
        """Have something done. Raises as `get`."""
        return self._call("POST", path, kind, body or {})

    def patch(self, path: str, kind: type[_T], body: Mapping[str, object]) -> _T:
        """Change something. Raises as `get`."""
        return self._call("PATCH", path, kind, body)

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, kind: type[_T], body: Mapping[str, object] | None = None) -> _T:
        try:
            status, data = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"no bridge answers at {self.url}: {_words(error)}") from None
        if status == 200:
            return self._decoded(data, kind)
        text = self._error(status, data)
        raise UsageError(text) if status == 400 else CommandError(text)

    def _exchange(self, method: str, path: str, body: Mapping[str, object] | None) -> tuple[int, bytes]:
        fresh = self._connection is None
        connection = self._connection = self._connection or self._connect()
        headers = {"Authorization": f"Bearer {self._key()}", "Accept": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"/v1/admin{path}", content, headers)
            response = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            self.close()
            if fresh or method != "GET":
                raise
            return self._exchange(method, path, body)  # it was kept open too long
        data = response.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise http.client.HTTPException("the answer is too long")
        return response.status, data

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            trust = self._trust or ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=trust)
        return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)

    def _decoded(self, data: bytes | msgspec.Raw, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError:
            raise CommandError(f"what answers at {self.url} is no bridge of this version") from None

    def _error(self, status: int, data: bytes) -> str:
        if status == 401:
            return f"the bridge at {self.url} refused the key"
        try:
            return msgspec.json.decode(data, type=_Error).error
        except msgspec.DecodeError:
            return f"what answers at {self.url} is no bridge with an admin API (HTTP {status})"


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next: str | None


class _Error(msgspec.Struct):
    error: str


def path(*parts: str) -> str:
    """A path of ids, quoted."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def find(args: argparse.Namespace, settings: Callable[[], Config]) -> Api | None:
    """Return the API of the bridge that a command line names, or of the one that runs on its store, if one does.

    Args:
        args: Of a command with `add_api`.
        settings: Loads the configuration that it names.

    Raises:
        UsageError: The address is none, or comes without a key.
        UnreachableError: The bridge does not listen now.
        CommandError: Its lock or its certificate cannot be read.
        LedgerError: The store cannot be read.
    """
    given = {name: getattr(args, name) or os.environ.get(variable, "") for name, variable in ENVIRONMENT.items()}
    if key := given["key"]:
        _check_key(key)
    if given["url"]:
        if not key:
            raise UsageError(f"--url needs --key, or {ENVIRONMENT['key']}")
        return Api(_address(given["url"]), lambda: key, _trust(given["ca"]))
    config = settings()
    bridge = running_bridge(config)
    if bridge is None:
        return None
    return Api(bridge.url, (lambda: key) if key else _own_key(config), _own_trust(bridge))


def _check_key(key: str) -> None:
    if not re.fullmatch(r"[!-~]{1,200}", key):
        raise UsageError("--key expects a key of `rtcbridge keys create --admin`")


def _address(text: str) -> str:
    url = re.sub(r"^ws(?=s?://)", "http", text.strip())
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"--url expects http://HOST:PORT or https://HOST:PORT, got {text!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _trust(ca: str) -> ssl.SSLContext | None:
    if not ca:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # an SSLError is one
        raise UsageError(f"--ca expects a file of certificates: {ca}: {error.strerror or error}") from None


def _own_key(config: Config) -> Callable[[], str]:
    with open_store(config.store.url) as store:
        secret = store.secret
    return lambda: admin_token(secret, time.time())


def _own_trust(bridge: RunningBridge) -> ssl.SSLContext | None:
    """Trust the one certificate that the bridge of this machine shows, whatever name it was made for."""
    if not bridge.certificate:
        return None
    try:
        with open(bridge.certificate, encoding="ascii", errors="replace") as file:
            found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", file.read(), re.DOTALL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer need not be known
        context.load_verify_locations(cadata=found[0] if found else "")
    except (OSError, ValueError) as error:
        raise CommandError(f"{bridge.certificate}: the bridge's certificate cannot be read: {error}") from None
    return context


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT:g} s"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "it closed the connection"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
