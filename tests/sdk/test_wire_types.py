"""The messages of the TypeScript client are those of the schema, and it knows every error."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import wire_types  # noqa: E402 - a tool beside the package


def test_the_types_are_current() -> None:
    tool = [sys.executable, ROOT / "tools/wire_types.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_field_that_is_not_required_may_be_missing() -> None:
    part = {
        "description": "A thing.",
        "properties": {
            "type": {"enum": ["thing"]},
            "many": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/Other"}]}},
            "any": {"anyOf": [{"type": "number"}, {"type": "integer"}, {"type": "null"}]},
            "free": {"type": "object"},
        },
        "required": ["type"],
    }
    assert wire_types.declaration("Thing", part).splitlines() == [
        "/** A thing. */",
        "export interface Thing {",
        '  type: "thing";',
        "  many?: (number | Other)[];",
        "  any?: number | null;",
        "  free?: Record<string, unknown>;",
        "}",
    ]


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="no type is known for"):
        wire_types.expression({"type": "tuple"})


def test_every_code_of_the_bridge_has_one_here() -> None:
    errors = (ROOT / "sdk" / "js" / "src" / "errors.ts").read_text()
    known = set(re.findall(r'^  \| "(\w+)"', errors, re.MULTILINE))
    renamed = set(re.findall(r"(\w+): \"\w+\"", re.search(r"RENAMED.*", errors)[0]))  # type: ignore[index]
    page = (ROOT / "docs" / "protocol.md").read_text().split("### 10.2 Errors")[1].split("###")[0]
    codes = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    only_here = {"resume_unknown", "resume_gap", "bad_message"}  # answered by the client itself, or bad input
    assert codes - only_here <= known | renamed
