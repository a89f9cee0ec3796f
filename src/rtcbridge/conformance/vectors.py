"""The transcripts under `protocol/vectors`, read and checked. Their format is described in `protocol/README.md`.

An installed package carries them with it (`pyproject.toml`); a working copy reads those of the repository.
"""

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

_INSTALLED = Path(__file__).with_name("protocol")
PROTOCOL = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[3] / "protocol"
"""The folder with `limits.json` and `vectors`."""

Message: TypeAlias = dict[str, Any]
Limits: TypeAlias = dict[str, int | float | str | list[str]]


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """One step. Exactly one of the fields from `open` to `bridge` says what is done."""

    at: str = ""
    open: Literal["client", "node"] | UnsetType = UNSET
    connect: Literal["/client", "/node"] | UnsetType = UNSET
    send: Message | UnsetType = UNSET
    flight: list[Message] | UnsetType = UNSET
    flood: Message | UnsetType = UNSET
    text: str | UnsetType = UNSET
    binary: str | UnsetType = UNSET
    expect: Message | UnsetType = UNSET
    expect_close: int | UnsetType = UNSET
    skip: Message | UnsetType = UNSET
    quiet: Literal[True] | UnsetType = UNSET
    close: int | UnsetType | None = UNSET
    drop: Literal[True] | UnsetType = UNSET
    pass_: float | UnsetType = msgspec.field(default=UNSET, name="pass")
    provider: Literal["create", "start", "stop", "destroy"] | UnsetType | None = UNSET
    revoke: str | UnsetType = UNSET
    bridge: Literal["killed", "started"] | UnsetType = UNSET
    # how
    register: Message = {}
    subprotocol: Literal["", "rtcbridge.v2"] = ""
    repeat: int = 1
    times: int = 1
    after: float | None = None
    reason: str | None = None
    unread: bool = False
    node: str = ""
    answer: Literal["accept", "refuse", "later"] = "accept"

    @property
    def verb(self) -> str:
        """What is done."""
        return _verbs(self)[0]


_VERBS = [name for name in Step.__struct_fields__[1:] if name not in
         ("register", "subprotocol", "repeat", "times", "after", "reason", "unread", "node", "answer")]  # fmt: skip
_WITHOUT_ACTOR = {"pass_", "provider", "revoke", "bridge"}


def _verbs(step: Step) -> list[str]:
    return [name for name in _VERBS if getattr(step, name) is not UNSET]


class Vector(Struct, frozen=True, forbid_unknown_fields=True):
    """One transcript, with the rule that it shows and the pool that it needs."""

    name: str
    rule: str
    pool: dict[str, Any]
    steps: list[Step]
    needs: list[Literal["keys", "restart", "turn"]] = []
    file: str = ""
    limits: str = ""

    @property
    def id(self) -> str:
        """Its file and its name: no two are the same."""
        return f"{self.file}: {self.name}"

    @property
    def scripted(self) -> bool:
        """A provider makes its nodes, and does as the vector says."""
        return bool(self.pool["provider"] == "scripted")


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    limits: str
    vectors: list[Vector]


def load_limits() -> dict[str, Limits]:
    """Each set of limits by its name: settings of the bridge that are not the defaults."""
    return msgspec.json.decode((PROTOCOL / "limits.json").read_bytes(), type=dict[str, Limits])


def load() -> list[Vector]:
    """All vectors, in the order of the files. Raises msgspec.ValidationError."""
    found: list[Vector] = []
    paths = sorted((PROTOCOL / "vectors").glob("*.json"), key=lambda path: int(path.stem.partition("-")[0]))
    for path in paths:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        found += [msgspec.structs.replace(each, file=path.stem, limits=file.limits) for each in file.vectors]
    return found


def mistakes(vector: Vector) -> list[str]:
    """What the types alone do not say about a vector."""
    found = []
    for number, step in enumerate(vector.steps, start=1):
        verbs = _verbs(step)
        if len(verbs) != 1:
            found.append(f"step {number}: one thing to do, not {verbs}")
        elif (verbs[0] in _WITHOUT_ACTOR) is bool(step.at):
            found.append(f"step {number}: {verbs[0]} and at={step.at!r}")
        elif verbs[0] == "provider" and step.provider is not None and not step.node:
            found.append(f"step {number}: which node?")
    if not vector.rule or not vector.name:
        found.append("a name and a rule")
    if vector.pool["provider"] not in ("static", "scripted"):
        found.append("a pool is static or scripted")
    return found


def as_json(value: object) -> bytes:
    """The value as a frame has it, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
