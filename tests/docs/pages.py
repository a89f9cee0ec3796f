"""The documents, and what is in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\S*)[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block. `info` is what stands behind the language."""

    page: Path
    line: int
    language: str
    info: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str, pages: list[Path] | None = None) -> list[Block]:
    return [block for page in pages or PAGES for block in every(page) if block.language in languages]


def every(page: Path) -> Iterator[Block]:
    """All blocks of a page."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        yield Block(page, text[: match.start()].count("\n") + 1, match[1], match[2].strip(), match[3])


def prose(page: Path) -> str:
    """A page without its fenced blocks; the lines keep their numbers."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())


def inline(page: Path) -> list[str]:
    """What stands in `code` in a page's prose."""
    return _INLINE.findall(prose(page))
