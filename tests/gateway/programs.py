"""Programs under test: `rtcbridge` as processes, with what they say, line by line."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rtcbridge.drivers.ledger import KeyStore, LedgerReader, open_store
from rtcbridge.ports import NodeRow, SessionRow

RTCBRIDGE = (sys.executable, "-m", "rtcbridge")
PATIENCE = 30.0  # seconds: others may be using the machine
T = TypeVar("T")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without what would configure a bridge."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RTCBRIDGE_")}
    return kept | {"PYTHONUNBUFFERED": "1"} | more


def until(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Look again and again at something that gives no notice, such as a file; return what is true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not in {patience:g} s"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status not in ("Z", "X")


class Program:
    """A process in a session of its own: as in a shell, SIGINT is not ignored there."""

    def __init__(self, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=env or environment(),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        self._process.wait()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, find: Callable[[str], T | None], what: str, *, since: int = 0) -> T:
        """Wait for a line in which `find` finds something; `since`: lines that are not looked at."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                for line in self.lines[since:]:
                    if found := find(line):
                        return found
                since = len(self.lines)
                left = deadline - time.monotonic()
                ended = self._process.poll() is not None and not self._reader.is_alive()
                assert left > 0, f"{what}: not in {PATIENCE:g} s\n{self.text}"
                assert not ended, f"{what}: the program has ended\n{self.text}"
                self._changed.wait(min(left, 0.5))

    def line(self, pattern: str, *, since: int = 0) -> re.Match[str]:
        return self.wait_for(re.compile(pattern).search, f"a line like {pattern!r}", since=since)

    def event(self, event: str, *, since: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for an event of a log in JSON that has these fields."""
        wanted = {"event": event} | fields

        def find(line: str) -> dict[str, Any] | None:
            seen = json.loads(line) if line.startswith("{") else {}
            return seen if wanted.items() <= seen.items() else None

        return self.wait_for(find, f"the event {wanted}", since=since)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end, and return the exit status; negative for a signal."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut does."""
        self.send(signal.SIGKILL)
        self.wait()

    def dispose(self) -> None:
        if self._process.poll() is None:
            self.send(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()


class Home:
    """The folder of a bridge: its configuration and store. It can be started again and again, on the same port."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.file = folder / "rtcbridge.toml"
        self.file.write_text(config)
        self.store = folder / "rtcbridge.db"
        self.store_url = f"sqlite:///{self.store}"  # as the configuration has it
        self.port = 0
        self.tls = False
        self._started: list[Program] = []

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"

    @property
    def page(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def run(self, *words: str, **env: str) -> Program:
        """Start `rtcbridge` with these words and this configuration."""
        program = Program(*RTCBRIDGE, *words, "--config", str(self.file), env=environment(**env), cwd=self.folder)
        self._started.append(program)
        return program

    def serve(self, **env: str) -> Program:
        """Start the bridge, and return when it listens."""
        bridge = self.run("serve", RTCBRIDGE_SERVER__PORT=str(self.port), RTCBRIDGE_LOG__FORMAT="json", **env)
        listening = bridge.event("listening")
        self.port, self.tls = listening["port"], listening["tls"]
        return bridge

    def dispose(self) -> None:
        for program in self._started:
            program.dispose()

    # --- the store, beside the running bridge ---

    @contextmanager
    def keys(self) -> Iterator[KeyStore]:
        with open_store(self.store_url) as database:
            keys = KeyStore(database)
            yield keys
            keys.close()

    def client_key(self, project: str = "TEST01") -> str:
        with self.keys() as keys:
            return keys.create_client_key(project)

    def node_key(self, pool: str = "default") -> str:
        with self.keys() as keys:
            return keys.create_node_key(pool)

    def nodes(self) -> dict[str, NodeRow]:
        with open_store(self.store_url) as database:
            return {row.id: row for row in LedgerReader(database).nodes()}

    def sessions(self) -> list[SessionRow]:
        with open_store(self.store_url) as database:
            return list(LedgerReader(database).sessions())


@contextmanager
def home(folder: Path, config: str) -> Iterator[Home]:
    made = Home(folder, config)
    try:
        yield made
    finally:
        made.dispose()
