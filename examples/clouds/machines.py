"""What runpod.py, vast.py and lambda_cloud.py have in common. They need Python 3.11 and nothing else.

    SCRIPT create | start | stop | destroy    for the node that the bridge names in RTCBRIDGE_NODE
    SCRIPT list                               one line a machine: "NODE running" or "NODE stopped"

Exit status 0 means accepted, the machine may boot later; 1 means refused, and the one line on stderr is the reason.

A machine bears its node's id in its name, and nothing is kept on this side, so each command may be run again, also
while an earlier one still runs. What makes a machine is asked for once: when its answer is lost, the cloud is asked
whether there is one now. Nothing waits for ever: each answer has ANSWER_WITHIN, each command DONE_WITHIN seconds.
"""

import fcntl
import http.client
import json
import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PREFIX = "rtcbridge-"  # of the names of our machines: no other machine of the account is touched
ANSWER_WITHIN = 20.0  # seconds
DONE_WITHIN = 240  # seconds; the pool's `timeout` must be longer
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before a call is repeated; CLOUD_PAUSE multiplies them
LOOKS = 3  # at the list of machines, after an answer that was lost
LONGEST = 8 << 20  # bytes of an answer


class RefusedError(Exception):
    """It was not accepted. The text is one line. `status` is HTTP's, 0 without an answer; `code` is the cloud's own."""

    def __init__(self, text: str, status: int = 0, code: str = "") -> None:
        super().__init__(" ".join(text.split()))
        self.status = status
        self.code = code


class DoubtfulError(RefusedError):
    """The same, but it may have been done all the same: no answer came, or one of an error on the cloud's side."""


class Machine(NamedTuple):
    """One machine that is there. `id` is the cloud's, `node` is ours."""

    id: str
    node: str
    running: bool


class Cloud(Protocol):
    """One cloud. All may raise RefusedError. `keeps_disks` is false where a machine cannot be stopped."""

    keeps_disks: bool

    def machines(self) -> list[Machine]:
        """Return the machines with our names that are there and are not just being deleted."""
        ...

    def create(self, node: str, name: str, env: dict[str, str]) -> None:
        """Make a machine of this name, whose agent finds `env` in its environment, and start it."""
        ...

    def start(self, machine: Machine) -> None:
        """Start a stopped machine."""
        ...

    def stop(self, machine: Machine) -> None:
        """Stop a machine and keep its disk."""
        ...

    def destroy(self, machine: Machine) -> None:
        """Delete a machine with its disk."""
        ...


def option(name: str, default: str | None = None) -> str:
    """Return a variable of the environment. Raises RefusedError if it is missing and has no default."""
    value = os.environ.get(name, "").strip() or default
    if value is None:
        raise RefusedError(f"{name} is not set in the bridge's environment")
    return value


def several(name: str, default: str | None = None) -> list[str]:
    """Return a variable that has a list between commas. Raises RefusedError."""
    return [item.strip() for item in option(name, default).split(",") if item.strip()]


def pause(number: int) -> None:
    """Wait before the next attempt; `number` counts from 0."""
    time.sleep(PAUSES[number] * float(option("CLOUD_PAUSE", "1")))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would turn a POST into a GET, and take the key along to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Let a redirect be the error that it is here."""


class Api:
    """JSON over HTTP with a key."""

    def __init__(self, cloud: str, url: str, key: str) -> None:
        self.cloud = cloud
        self.url = url.rstrip("/")
        self.key = key
        self.opener = urllib.request.build_opener(NoRedirect())

    def get(self, path: str) -> Any:
        """Return an answer; what does harm to nobody is repeated."""
        return self.call("GET", path, repeat=True)

    def call(self, method: str, path: str, body: Any = None, *, repeat: bool = False) -> Any:
        """Return an answer, decoded.

        A call that came too early (429) was not done, and is repeated; others only with `repeat`.
        """
        for attempt in range(len(PAUSES)):
            try:
                return self.once(method, path, body)
            except RefusedError as error:
                if error.status != 429 and not (repeat and isinstance(error, DoubtfulError)):
                    raise
                pause(attempt)
        return self.once(method, path, body)

    def once(self, method: str, path: str, body: Any) -> Any:
        """Do one call. Raises RefusedError, or DoubtfulError where nobody knows."""
        what = f"{method} {path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", "User-Agent": "rtcbridge"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - the user's URL
        try:
            with self.opener.open(request, timeout=ANSWER_WITHIN) as answer:
                text = answer.read(LONGEST)
            return json.loads(text) if text.strip() else {}
        except urllib.error.HTTPError as error:
            raise self.refusal(what, error) from None
        except (OSError, http.client.HTTPException) as error:
            raise DoubtfulError(f"{self.cloud} does not answer {what}: {error or type(error).__name__}") from None
        except ValueError:
            raise DoubtfulError(f"{self.cloud} answers {what} with what is no JSON") from None

    def refusal(self, what: str, error: urllib.error.HTTPError) -> RefusedError:
        """Read an error's answer: the three clouds say it in four ways."""
        status, code, message = error.code, "", ""
        try:
            message = text = error.read(LONGEST).decode("utf-8", "replace")
            found = json.loads(text)
            found = found.get("error", found) if isinstance(found.get("error"), dict) else found
            code = str(found.get("code") or found.get("error") or "")
            message = str(found.get("message") or found.get("msg") or found.get("error") or text)
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            pass  # the status alone has to do
        message = f"{code}: {message}" if code and code not in message else message
        kind = DoubtfulError if status >= 500 else RefusedError
        hint = " (check the key)" if status in (401, 403) else ""
        line = f"{self.cloud} answers {status}{hint} to {what}: {message[:200]}".replace(self.key, "…")
        return kind(line, status, code)


# --- the five commands ---


def of(cloud: Cloud, node: str) -> list[Machine]:
    """Return this node's machines; the first is the one that counts."""
    return sorted(
        (each for each in cloud.machines() if each.node == node), key=lambda each: (not each.running, each.id)
    )


def settle(act: Callable[[], None], is_done: Callable[[], bool]) -> None:
    """Do what must not be done twice; where its answer leaves a doubt, look whether it was done."""
    try:
        act()
    except DoubtfulError:
        for attempt in range(LOOKS):
            pause(attempt)
            if is_done():
                return
        raise


def create(cloud: Cloud, node: str) -> None:
    """Make the node's machine, or start the one that is there."""
    there = of(cloud, node)
    if there:
        for extra in there[1:]:
            cloud.destroy(extra)
        if not there[0].running:
            start(cloud, node)
        return
    names = ("RTCBRIDGE_NODE", "RTCBRIDGE_POOL", "RTCBRIDGE_URL", "RTCBRIDGE_NODE_TOKEN")
    env = {name: option(name) for name in names}
    settle(lambda: cloud.create(node, PREFIX + node, env), lambda: bool(of(cloud, node)))


def start(cloud: Cloud, node: str) -> None:
    """Start the node's machine; where none can be stopped, make it anew."""
    there = of(cloud, node)
    if not there and not cloud.keeps_disks:
        create(cloud, node)
    elif not there:
        raise RefusedError(f"there is no machine {PREFIX}{node}")
    elif not there[0].running:
        settle(lambda: cloud.start(there[0]), lambda: any(each.running for each in of(cloud, node)))


def stop(cloud: Cloud, node: str) -> None:
    """Stop the node's machine; where none can be stopped, delete it."""
    there = of(cloud, node)
    if not cloud.keeps_disks:
        destroy(cloud, node)
    elif not there:
        raise RefusedError(f"there is no machine {PREFIX}{node}")
    for machine in there if cloud.keeps_disks else ():
        if machine.running:
            settle(
                lambda machine=machine: cloud.stop(machine), lambda: not any(each.running for each in of(cloud, node))
            )


def destroy(cloud: Cloud, node: str) -> None:
    """Delete all machines of the node. There may be none."""
    for machine in of(cloud, node):
        settle(lambda machine=machine: cloud.destroy(machine), lambda: not of(cloud, node))


def show(cloud: Cloud) -> None:
    """Print all our machines."""
    for machine in cloud.machines():
        print(machine.node, "running" if machine.running else "stopped")


@contextmanager
def alone(node: str) -> Iterator[None]:
    """Let one command of a node run at a time: those of a bridge that was killed go on, and the next one's begin."""
    folder = Path(tempfile.gettempdir(), f"rtcbridge-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RefusedError(f"{folder} is another user's")
    with (folder / "nodes.lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, zlib.crc32(node.encode()))
        yield


def too_late(*_: Any) -> None:
    """End a command that takes too long."""
    raise RefusedError(f"not done within {DONE_WITHIN} s")


def main(make: Callable[[], Cloud]) -> int:
    """Run the command that the command line names; return the exit status."""
    program, *words = Path(sys.argv[0]).name, *sys.argv[1:]
    verbs = {"create": create, "start": start, "stop": stop, "destroy": destroy}
    if len(words) != 1 or words[0] not in (*verbs, "list"):
        print(f"usage: {program} create | start | stop | destroy | list", file=sys.stderr)
        return 2
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(DONE_WITHIN)
    try:
        if words == ["list"]:
            show(make())
        else:
            node = option("RTCBRIDGE_NODE")
            with alone(node):
                verbs[words[0]](make(), node)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        print(f"an answer of another shape than documented: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def ours(name: object) -> str:
    """Return the node whose machine has this name, or ""."""
    return name.removeprefix(PREFIX) if isinstance(name, str) and name.startswith(PREFIX) else ""
