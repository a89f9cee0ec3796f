"""The page with the state diagrams is the one that the tables make."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rtcbridge.core.node import NodeState
from rtcbridge.core.session import State

TOOL = Path(__file__).resolve().parents[2] / "tools" / "diagrams.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["diagrams.py", *arguments])
    return int(tool.main())


def test_the_page_is_current(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tool, monkeypatch, "--check") == 0


@pytest.mark.parametrize("present", [None, "old"])
def test_a_page_that_is_not_gets_one_line(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    present: str | None,
) -> None:
    page = tmp_path / "docs" / "states.md"
    if present is not None:
        page.parent.mkdir()
        page.write_text(present)
    monkeypatch.setattr(tool, "TARGET", page)
    assert run(tool, monkeypatch, "--check") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run(tool, monkeypatch) == 0
    assert run(tool, monkeypatch, "--check") == 0


def test_every_state_is_on_it(tool: ModuleType) -> None:
    text = tool.document()
    assert all(f" {state.name}" in text for state in (*State, *NodeState))
