"""`protocol/schema.json` is what the messages of the core make it, and holds together."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schema", ROOT / "tools" / "schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["schema.py", *arguments])
    return int(tool.main())


def test_the_file_is_current(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tool, monkeypatch, "--check") == 0


def test_one_that_is_not_gets_one_line(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "TARGET", tmp_path / "protocol" / "schema.json")
    assert run(tool, monkeypatch, "--check") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run(tool, monkeypatch) == 0
    assert run(tool, monkeypatch, "--check") == 0


def test_every_reference_leads_somewhere_and_every_part_is_used(tool: ModuleType) -> None:
    parts = tool.schema()["$defs"]
    assert set(re.findall(r'"#/\$defs/(\w+)"', tool.document())) == set(parts)


@pytest.mark.parametrize("direction", ["FromClient", "ToClient", "FromExtendedClient", "ToExtendedClient"])
def test_a_type_names_one_message_of_a_direction(tool: ModuleType, direction: str) -> None:
    parts = tool.schema()["$defs"]
    named = [part["$ref"].rpartition("/")[2] for part in parts[direction]["anyOf"]]
    types = [parts[name]["properties"]["type"]["enum"][0] for name in named]
    assert len(types) == len(set(types))


def test_the_documented_messages_have_no_field_of_the_extension(tool: ModuleType) -> None:
    parts = tool.schema()["$defs"]
    assert set(parts["AuthSuccess"]["properties"]) == {"type"}
    assert set(parts["NodeStatus"]["properties"]) == {"type", "status"}
    assert set(parts["ClientError"]["properties"]) == {"type", "message"}
    assert json.loads((ROOT / "protocol" / "schema.json").read_text())["$defs"] == parts
