"""Plays a vector against a world: the core alone, with a clock that is moved, or a real bridge over WebSockets."""

import json
import re
from base64 import b64decode
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from rtcbridge.conformance.vectors import Step, Vector, as_json

Frame = tuple[bool, bytes]  # whether it is text, and what is in it


class MismatchError(AssertionError):
    """The bridge did not do what a vector says; its text says what it did instead."""


def check(is_so: bool, otherwise: str) -> None:
    """Raise MismatchError unless it is so. An `assert` would say nothing under `python -O`."""
    if not is_so:
        raise MismatchError(otherwise)


@dataclass(frozen=True)
class Ended:
    """The bridge has closed a socket."""

    code: int
    reason: str

    def __str__(self) -> str:
        return f"the end ({self.code}{f', {self.reason}' if self.reason else ''})"


@dataclass(frozen=True)
class Operation:
    """What the provider was asked for, for which node, and the token that the node was given."""

    name: str
    node: str
    token: str
    handle: Any


class World(Protocol):
    """What a vector acts on. Actors are named; one that opens a second time has a new socket.

    Times are in seconds. `after` is the time, since the step before, at which something is to come.
    """

    values: dict[str, str]  # client_key, node_key, revoked_key, client_token, pool

    def node_id(self, actor: str) -> str:
        """The id under which an actor registers as a node."""

    async def connect(self, actor: str, path: str, subprotocol: str) -> None:
        """Open its socket at `/client` or `/node`."""

    async def send(self, actor: str, frames: list[Frame]) -> None:
        """Send in one write, and wait until the bridge has taken it in."""

    async def receive(self, actor: str, after: float | None) -> bytes | Ended:
        """Return the next frame that comes, or the end."""

    async def waiting(self, actor: str) -> list[bytes | Ended]:
        """Wait until all has come that the bridge had to say, and return what was not received yet."""

    async def close(self, actor: str, code: int | None) -> None:
        """Close with a Close frame, and wait until the bridge has noticed."""

    async def drop(self, actor: str) -> None:
        """Break the connection, and wait until the bridge has noticed."""

    async def let_pass(self, seconds: float) -> None:
        """Let time go by."""

    async def operation(self, after: float | None) -> Operation:
        """Return the next thing that the provider is asked for."""

    async def answer(self, operation: Operation, accepted: bool) -> None:
        """Let the provider accept it, or refuse."""

    async def no_operation(self) -> None:
        """Raises MismatchError if the provider was asked for anything else."""

    async def revoke(self, key: str) -> None:
        """Revoke a key."""

    async def kill(self) -> None:
        """Kill the bridge."""

    async def start(self) -> None:
        """Start it again."""

    def actors(self) -> list[str]:
        """Those that have a socket which they have not left."""


_VALUE = re.compile(r"\$(fill:\d+|\w+(?:\(\w+\))?)")


class Replay:
    """One run of one vector.

    Args:
        vector: what is to happen.
        world: where.
        optional: fields that messages to nodes, and to clients of the extension, may have without being expected.
    """

    def __init__(self, vector: Vector, world: World, optional: Set[str] = frozenset()) -> None:
        self.vector = vector
        self.world = world
        self.optional = optional
        self.extended: set[str] = set()  # whom this concerns
        self.bound: dict[str, Any] = {}
        self.ids: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.visits: dict[str, Any] = {}  # what each client of the extension was welcomed with

    async def run(self) -> None:
        """Play it to its end. Raises MismatchError, which names the step."""
        for number, step in enumerate(self.vector.steps, start=1):
            try:
                await self._do(step)
            except Exception as error:
                what = str(error) or type(error).__name__
                raise MismatchError(f"{self.vector.id}, step {number}, {step.at} {step.verb}: {what}") from error
        for actor in self.world.actors():
            left = await self.world.waiting(actor)
            check(not left, f"{self.vector.id}: {actor} was sent more: {_shown(left)}")

    async def _do(self, step: Step) -> None:
        verb = step.verb
        if verb in ("send", "flight", "flood", "text", "binary"):
            await self._send(step)
        else:
            await getattr(self, f"_{verb.rstrip('_')}")(step)

    # --- what an actor does ---

    async def _connect(self, step: Step) -> None:
        await self.world.connect(step.at, str(step.connect), step.subprotocol)

    async def _open(self, step: Step) -> None:
        """Connect, say who it is, and hear that it is welcome."""
        (self.extended.add if step.subprotocol or step.open == "node" else self.extended.discard)(step.at)
        await self.world.connect(step.at, f"/{step.open}", step.subprotocol)
        if step.open == "client":
            first = {"type": "CREDENTIAL", "payload": {"credential": "$client_key"}}
            welcome: dict[str, Any] = {"type": "auth_success"}
            if step.subprotocol:
                welcome |= {"session": "$text", "resume": "$text"}
        else:
            credential = "$token" if step.at in self.tokens else "$node_key"
            payload = {"credential": credential, "node": "$id", "pool": "$pool", **step.register}
            first = {"type": "REGISTER", "payload": payload}
            welcome = {"type": "registered", "node": "$id", "epoch": "$any", "heartbeat": "$any"}
        await self.world.send(step.at, [(True, as_json(self._filled(first, step.at)))])
        message = await self._match(step.at, welcome, None)
        if step.subprotocol:
            self.visits[step.at] = message

    async def _send(self, step: Step) -> None:
        at = step.at
        if step.verb == "binary":
            frames = [(False, b64decode(str(step.binary)))]
        elif step.verb == "text":
            frames = [(True, self._filled(str(step.text), at, n).encode()) for n in range(step.repeat)]
        elif step.verb == "flood":
            frames = [(True, as_json(self._filled(step.flood, at)))] * step.times
        elif step.verb == "flight":
            frames = [(True, as_json(self._filled(message, at))) for message in step.flight or ()]
        else:
            frames = [(True, as_json(self._filled(step.send, at, n))) for n in range(step.repeat)]
        await self.world.send(at, frames)

    async def _close(self, step: Step) -> None:
        await self.world.close(step.at, step.close or None)

    async def _drop(self, step: Step) -> None:
        await self.world.drop(step.at)

    # --- what an actor sees ---

    async def _expect(self, step: Step) -> None:
        for n in range(step.repeat):
            await self._match(step.at, step.expect, step.after if n == 0 else None, n)

    async def _match(self, at: str, pattern: Any, after: float | None, n: int = 0) -> Any:
        got = await self.world.receive(at, after)
        if isinstance(got, Ended):
            raise MismatchError(f"{got} instead of {pattern}")
        message = json.loads(got)
        check(self._matches(self._pared(message, pattern, at), pattern, at, n), f"{message} instead of {pattern}")
        return message

    def _pared(self, message: Any, pattern: Any, at: str) -> Any:
        """The message without optional fields that are not expected."""
        if at not in self.extended or not isinstance(message, dict):
            return message
        return {key: value for key, value in message.items() if key in pattern or key not in self.optional}

    async def _expect_close(self, step: Step) -> None:
        got = await self.world.receive(step.at, step.after)
        while step.unread and not isinstance(got, Ended):
            got = await self.world.receive(step.at, None)
        if not isinstance(got, Ended):
            raise MismatchError(f"{_shown([got])} instead of the end ({step.expect_close})")
        check(got.code == step.expect_close, f"{got} instead of the end ({step.expect_close})")
        check(step.reason is None or got.reason == step.reason, f"{got} with another reason than {step.reason!r}")

    async def _skip(self, step: Step) -> None:
        for frame in await self.world.waiting(step.at):
            if isinstance(frame, Ended):
                raise MismatchError(f"{frame} instead of {step.skip}")
            check(self._matches(json.loads(frame), step.skip, step.at, 0), f"{_shown([frame])} instead of {step.skip}")
            await self.world.receive(step.at, None)

    async def _quiet(self, step: Step) -> None:
        left = await self.world.waiting(step.at)
        check(not left, f"{_shown(left)} instead of nothing")

    # --- what happens beside them ---

    async def _pass(self, step: Step) -> None:
        await self.world.let_pass(step.pass_ or 0.0)

    async def _provider(self, step: Step) -> None:
        if step.provider is None:
            await self.world.no_operation()
            return
        operation = await self.world.operation(step.after)
        check(operation.name == step.provider, f"asked to {operation.name}")
        check(self.ids.setdefault(step.node, operation.node) == operation.node, "asked for another node")
        self.tokens[step.node] = operation.token
        if step.answer != "later":
            await self.world.answer(operation, step.answer == "accept")

    async def _revoke(self, step: Step) -> None:
        await self.world.revoke(self._filled(str(step.revoke), ""))

    async def _bridge(self, step: Step) -> None:
        await (self.world.kill() if step.bridge == "killed" else self.world.start())

    # --- values and patterns ---

    def _value(self, name: str, at: str) -> Any:
        if name.startswith("fill:"):
            return "x" * int(name.removeprefix("fill:"))
        kind, _, of = name.rstrip(")").partition("(")
        if kind == "id":
            return self.ids.setdefault(of or at, self.world.node_id(of or at))
        if kind in ("resume", "session") and of:
            return self.visits[of][kind]
        if kind == "token":
            return self.tokens[of or at]
        if name in self.world.values:
            return self.world.values[name]
        return self.bound[name]

    def _filled(self, value: Any, at: str, n: int = 0) -> Any:
        """The value with `{i}` and what stands behind `$` put in."""
        if isinstance(value, str):
            text = value.replace("{i}", str(n))
            return _VALUE.sub(lambda found: str(self._value(found[1], at)), text)
        if isinstance(value, list):
            return [self._filled(each, at, n) for each in value]
        if isinstance(value, dict):
            return {key: self._filled(each, at, n) for key, each in value.items()}
        return value

    def _matches(self, value: Any, pattern: Any, at: str, n: int) -> bool:
        if pattern == "$any":
            return True
        if pattern == "$text":
            return isinstance(value, str) and value != ""
        if isinstance(pattern, str):
            name = pattern[1:]
            if re.fullmatch(r"\$s\d+", pattern) and name not in self.bound:
                check(value not in self.bound.values(), f"{pattern} is not new")
                self.bound[name] = value
            return bool(value == self._filled(pattern, at, n))
        if isinstance(pattern, dict):
            return (
                isinstance(value, dict)
                and value.keys() == pattern.keys()
                and all(self._matches(value[key], pattern[key], at, n) for key in pattern)
            )
        if isinstance(pattern, list):
            return (
                isinstance(value, list)
                and len(value) == len(pattern)
                and all(self._matches(*pair, at, n) for pair in zip(value, pattern, strict=True))
            )
        return type(value) is type(pattern) and bool(value == pattern)


def _shown(frames: Sequence[bytes | Ended]) -> str:
    """What came, at most five of them."""
    return ", ".join(str(each) if isinstance(each, Ended) else each.decode(errors="replace") for each in frames[:5])
