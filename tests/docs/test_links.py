"""Links between the documents lead somewhere."""

import re
from functools import cache
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, prose

LINK = re.compile(r"!?\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return frozenset(text.replace(" ", "-") for text in plain)


def links() -> list[tuple[Path, str]]:
    return [(page, target) for page in PAGES for target in LINK.findall(prose(page))]


@pytest.mark.parametrize(("page", "target"), links(), ids=[f"{page.name}: {target}" for page, target in links()])
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    if re.match(r"[a-z]+:", target):
        assert target.startswith("https://")
        return
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.is_relative_to(ROOT)
    assert there.exists()
    if anchor:
        assert anchor in anchors(there)


def test_every_page_can_be_found_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(page))]
    assert set(PAGES) <= seen


def test_every_example_is_shown_somewhere() -> None:
    text = "".join(page.read_text() for page in PAGES)
    examples = [file for file in (ROOT / "examples").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert [file.name for file in examples if str(file.relative_to(ROOT)) not in text] == []
