"""`rtcbridge top`: what goes on in a bridge, drawn each second. Without a terminal: once."""

import argparse
import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtcbridge import config
from rtcbridge.cli import Subparsers, add_command
from rtcbridge.cli.api import Api, add_api, find
from rtcbridge.cli.lock import UnreachableError
from rtcbridge.cli.screen import Screen, Snapshot
from rtcbridge.gateway.views import BridgeView, NodeView, PoolView, SessionView

if TYPE_CHECKING:
    from rich.console import Console

_PERIOD = 1.0  # seconds between two looks
_NODES = 500  # that are asked for at most
_SESSIONS = 100
_NEWS = 10.0  # seconds that what has happened is shown


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    add_api(add_command(subparsers, "top", _top, "show what goes on in a running bridge, each second; q leaves"))


def _top(args: argparse.Namespace) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    source = _Source(args)
    first = source.look()
    if not console.is_terminal:
        source.close()
        console.print(Screen(first))
        return 0
    watch = _Watch(source, first)
    try:
        _draw(console, watch)
    finally:
        watch.stop()
    return 0


def _draw(console: "Console", watch: "_Watch") -> None:
    from rich.live import Live

    def screen() -> Screen:
        snapshot, message = watch.now()
        return Screen(snapshot, message, console.height)

    with _key_presses() as keys, Live(screen(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(), refresh=True)
            ready, _, _ = select.select([watch.changed, *keys], [], [], _PERIOD)
            if watch.changed in ready:
                os.read(watch.changed, 4096)
            if any(_leaves(key) for key in keys if key in ready):
                return


def _leaves(key: int) -> bool:
    """Whether what was typed, or the end of the terminal, says to go."""
    try:
        typed = os.read(key, 64)
    except OSError:
        return True
    return not typed or b"q" in typed.lower()


@contextlib.contextmanager
def _key_presses() -> Iterator[list[int]]:
    """Let keys be read one by one, without an echo; nothing to be read where the input is no terminal."""
    if not sys.stdin.isatty():
        yield []
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield [descriptor]
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Source:
    """Takes snapshots. A bridge that was away is looked for anew: it may listen elsewhere."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._api: Api | None = None

    def look(self) -> Snapshot:
        """Return what there is. Raises UnreachableError, and as `find` and `Api.get`."""
        if self._api is None:
            self._api = find(self._args, lambda: config.load(self._args.config))
        if self._api is None:
            raise UnreachableError("no bridge runs on this store; see --config and --url")
        try:
            return _snapshot(self._api)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next look makes a new one."""
        if self._api is not None:
            self._api.close()
            self._api = None


def _snapshot(api: Api) -> Snapshot:
    return Snapshot(
        url=api.url,
        bridge=api.get("/bridge", BridgeView),
        pools=list(api.every("/pools", PoolView)),
        nodes=api.page("/nodes", NodeView, limit=_NODES),
        sessions=api.page("/sessions", SessionView, limit=_SESSIONS, order="newest"),
    )


class _Watch:
    """Takes a snapshot each second, in a thread of its own: a bridge that does not answer must not hold up the keys.

    Attributes:
        changed: A descriptor that can be read when there is something new.
    """

    def __init__(self, source: _Source, first: Snapshot) -> None:
        self._source = source
        self._snapshot = first
        self._message = ""
        self._away = False
        self._told = 0.0
        self._error: Exception | None = None
        self._stopping = threading.Event()
        self.changed, self._write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)
        self._thread.start()

    def now(self) -> tuple[Snapshot, str]:
        """Return the newest snapshot and what is to be said. Raises what ended the watch."""
        if self._error is not None:
            raise self._error
        return self._snapshot, self._message

    def stop(self) -> None:
        """End, without waiting for an answer that is under way."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(_PERIOD):
            try:
                self._look()
            except Exception as error:
                self._error = error
                self._stopping.set()
            os.write(self._write, b".")
        self._source.close()

    def _look(self) -> None:
        before = self._snapshot.bridge
        try:
            snapshot = self._source.look()
        except UnreachableError as error:
            self._away = True
            self._say(f"{error}; trying again")
            return
        if snapshot.bridge.started != before.started:
            self._say(
                f"the bridge was restarted at {time.strftime('%H:%M:%S', time.localtime(snapshot.bridge.started))}"
            )
        elif self._away:
            self._say("the bridge answers again")
        elif time.monotonic() - self._told > _NEWS:
            self._message = ""
        self._snapshot, self._away = snapshot, False

    def _say(self, message: str) -> None:
        self._message, self._told = message, time.monotonic()
