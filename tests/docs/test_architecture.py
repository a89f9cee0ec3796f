"""docs/architecture.md: every path, class and function that it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docs.pages import ROOT, prose

PAGE = ROOT / "docs" / "architecture.md"
SOURCES = ROOT / "src" / "rtcbridge"
TOKENS = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(/[\w.-]*)+|[\w.]+\.(py|toml|md|ts)")
FUNCTION = re.compile(r"(?:(\w+)\.)?(\w+)\(\)")
ATTRIBUTE = re.compile(r"([A-Z]\w+)\.(\w+)")


def located(path: str) -> Path | None:
    """The file or folder, from the repository's root or the package's."""
    return next((root / path for root in (ROOT, SOURCES) if (root / path).exists()), None)


@cache
def names(file: Path) -> frozenset[str]:
    """`function`, `Class`, `Class.method` and top-level `NAME`s of a Python file."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{each.name}" for each in inner}
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def paragraphs() -> list[str]:
    """The page in pieces within which a name belongs to a file: rows of tables, items, paragraphs."""
    return re.split(r"\n(?=\||\d+\. |\n)", prose(PAGE))


def test_every_path_exists() -> None:
    paths = [token for token in TOKENS.findall(prose(PAGE)) if PATH.fullmatch(token) and token != "src/rtcbridge/"]
    assert len(paths) > 60
    assert [path for path in paths if located(path) is None] == []


def cited() -> list[tuple[str, str]]:
    """Every name with parentheses or a dot, and the paragraph that it stands in."""
    return [
        (token, piece)
        for piece in paragraphs()
        for token in TOKENS.findall(piece)
        if FUNCTION.fullmatch(token) or ATTRIBUTE.fullmatch(token)
    ]


@pytest.mark.parametrize(("token", "piece"), cited(), ids=[token for token, _ in cited()])
def test_every_function_is_in_a_file_named_beside_it(token: str, piece: str) -> None:
    files = [located(path) for path in TOKENS.findall(piece) if PATH.fullmatch(path)]
    known = {name for file in files if file and file.suffix == ".py" for name in names(file)}
    assert token.removesuffix("()") in known


def test_every_class_and_table_exists() -> None:
    everything = {name for file in SOURCES.rglob("*.py") for name in names(file)}
    cited = {token for token in TOKENS.findall(prose(PAGE)) if re.fullmatch(r"[A-Z]\w*[a-z]\w*|[A-Z_]{5,}", token)}
    assert len(cited) > 10
    assert cited <= everything


def test_every_package_is_on_the_page() -> None:
    """A package that nobody is told of cannot be found by a newcomer."""
    text = prose(PAGE)
    packages = {path.parent.relative_to(SOURCES) for path in SOURCES.rglob("__init__.py") if path.parent != SOURCES}
    assert [str(package) for package in packages if str(package) not in text] == []
    tests = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert [name for name in sorted(tests) if f"tests/{name}" not in text] == []
