"""Fakes of three clouds' HTTP APIs, for the scripts in examples/clouds: written from the clouds' public documentation.

None of them was compared with the real service. What they share is here: machines that run as processes of this
machine, a log of what was asked, and faults on demand. What each of them answers is in `fakes.py`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gateway.programs import PATIENCE, environment

NODE = Path(__file__).parents[1] / "gateway" / "fake_node.py"
KEY = "cloud-key-very-secret"
Reply = tuple[int, Any]


@dataclass
class Fault:
    """What goes wrong, `times` times, with calls that match `call`, such as "POST /pods".

    Attributes:
        call: a regular expression for the method and the path.
        reply: the answer in place of the true one.
        drop: the connection ends "before" the call is done, or "after".
        hold: the call is done when this is set.
        times: how often.
    """

    call: str
    reply: Reply | None = None
    drop: str = ""
    hold: threading.Event | None = None
    times: int = 1


@dataclass
class FakeMachine:
    """One machine. `asked` is what its creation was asked for; `state` is the cloud's own word."""

    id: str
    name: str
    asked: dict[str, Any]
    state: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


class FakeCloud:
    """Serves in threads of its own.

    Attributes:
        machines: all that were ever made, by the cloud's id.
        calls: what came in, in order: "METHOD /path".
        faults: those to come.
        going: states in which a machine is as good as gone.
    """

    script = ""
    toml = ""
    running = ""
    going: tuple[str, ...] = ()
    keeps_disks = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, FakeMachine] = {}
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self._lock = threading.RLock()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    cloud._serve(self)
                else:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        for fault in self.faults:
            if fault.hold:
                fault.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)
        for machine in self.machines.values():
            self._halt(machine)

    # --- HTTP ---

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = json.loads(request.rfile.read(length) or b"null")
        call = f"{request.command} {request.path}"
        with self._lock:
            self.calls.append(call)
            fault = next((each for each in self.faults if each.times and re.match(each.call, call)), None)
            if fault:
                fault.times -= 1
        if fault and fault.hold:
            assert fault.hold.wait(PATIENCE)
        if fault and fault.drop == "before":
            reply = None
        elif fault and fault.reply:
            reply = fault.reply
        elif request.headers.get("Authorization") != f"Bearer {KEY}":
            reply = self.unauthorized()
        else:
            with self._lock:
                reply = self.answer(request.command, request.path, body)
            if fault and fault.drop == "after":
                reply = None
        request.close_connection = True
        if reply is not None:
            status, answer = reply
            text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.send_header("Connection", "close")
            request.end_headers()
            request.wfile.write(text)

    def answer(self, method: str, path: str, body: Any) -> Reply:
        """What this cloud does."""
        raise NotImplementedError

    def unauthorized(self) -> Reply:
        raise NotImplementedError

    def options(self) -> dict[str, str]:
        """What the script finds in the bridge's environment."""
        raise NotImplementedError

    # --- machines ---

    def there(self) -> list[FakeMachine]:
        """What costs money."""
        with self._lock:
            return [each for each in self.machines.values() if each.state not in self.going]

    def up(self) -> list[FakeMachine]:
        return [each for each in self.there() if each.state == self.running]

    def count(self, call: str) -> int:
        """How many calls came in that match."""
        return sum(bool(re.fullmatch(call, each)) for each in self.calls)

    def _make(self, name: str, asked: dict[str, Any]) -> FakeMachine:
        id = f"{len(self.machines) + 1:04x}"
        machine = self.machines[id] = FakeMachine(id, name, asked, self.running)
        self._boot(machine)
        return machine

    def _boot(self, machine: FakeMachine) -> None:
        """Start the machine's agent."""
        place = self.folder / f"machine-{machine.id}"
        place.mkdir(exist_ok=True)
        with (place / "log").open("ab") as log:
            command, env = self.image(machine)
            machine.process = subprocess.Popen(
                command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def image(self, machine: FakeMachine) -> tuple[list[str], dict[str, str]]:
        """The command and the environment of what runs on the machine: here, a light node."""
        return [sys.executable, str(NODE)], environment() | machine.asked["env"]

    def _halt(self, machine: FakeMachine) -> None:
        """Switch the machine off."""
        if machine.process is not None:
            if machine.process.poll() is None:
                os.killpg(machine.process.pid, signal.SIGKILL)
            machine.process.wait(PATIENCE)
            machine.process = None


@contextmanager
def serving(kind: type[FakeCloud], folder: Path) -> Iterator[FakeCloud]:
    cloud = kind(folder)
    try:
        yield cloud
    finally:
        cloud.close()
