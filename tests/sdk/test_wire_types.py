"""The messages of the TypeScript client are those of the schema."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS: dict[str, Any] = json.loads((ROOT / "protocol" / "schema.json").read_text())["$defs"]
WIRE = (ROOT / "sdk" / "js" / "src" / "wire.ts").read_text()
OLDER_DIALECT = {"ice_candidate"}


def declared(name: str) -> set[str]:
    found = re.search(rf"export type {name} =(.*?);\n\n", WIRE, re.DOTALL)
    assert found is not None
    return set(re.findall(r'type: "(\w+)"', found[1]))


def of_schema(direction: str) -> set[str]:
    names = [part["$ref"].rpartition("/")[2] for part in PARTS[direction]["anyOf"]]
    return {PARTS[name]["properties"]["type"]["enum"][0] for name in names}


def test_it_takes_every_message_of_the_bridge() -> None:
    assert declared("FromBridge") == of_schema("ToExtendedClient") - OLDER_DIALECT


def test_it_sends_no_other_message_than_the_bridge_takes() -> None:
    assert declared("ToBridge") <= of_schema("FromExtendedClient")


@pytest.mark.parametrize("status", ["pending", "full", "waiting"])
def test_the_statuses(status: str) -> None:
    assert status in PARTS["Status"]["enum"]
    assert f'"{status}"' in re.search(r"export type NodeStatus = (.*);", WIRE)[1]  # type: ignore[index]


def test_every_code_of_the_bridge_has_one_here() -> None:
    errors = (ROOT / "sdk" / "js" / "src" / "errors.ts").read_text()
    known = set(re.findall(r'^  \| "(\w+)"', errors, re.MULTILINE))
    renamed = set(re.findall(r"(\w+): \"\w+\"", re.search(r"RENAMED.*", errors)[0]))  # type: ignore[index]
    page = (ROOT / "docs" / "protocol.md").read_text().split("### 10.2 Errors")[1].split("###")[0]
    codes = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    only_here = {"resume_unknown", "resume_gap", "bad_message"}  # answered by the client itself, or bad input
    assert codes - only_here <= known | renamed
