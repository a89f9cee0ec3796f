"""Build the documentation site strictly: `python tools/site.py [--check]`. Its pages are README.md and docs/."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "site-source"
FRONT = {"README.md": "index.md", "README.ko.md": "ko/index.md"}

_FENCE = re.compile(r"^(```[^\n]*\n.*?^```[^\n]*)$", re.MULTILINE | re.DOTALL)
_INFO = re.compile(r"^(```\w+) [^\n]+$", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def main() -> int:
    """Stage the pages and build them; with `--check` keep no result. Returns the exit status of the build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="build, and remove the result")
    check = parser.parse_args().check
    stage()
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--quiet"]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # a notice of what Material's makers do next
    status = subprocess.run(program, cwd=ROOT, env=quiet, check=False).returncode  # noqa: S603
    if check:
        shutil.rmtree(ROOT / "build" / "site", ignore_errors=True)
    return status


def stage() -> None:
    """Write the site's source: every page, with its links as they must be there, and every file that is linked to."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in FRONT), ROOT / "CHANGELOG.md"]
    for page in pages:
        if page.exists():
            target = place(page)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(staged(page), encoding="utf-8")


def place(file: Path) -> Path:
    """Where a file of the repository is in the site's source. What is not of docs/ is under `files`."""
    name = file.relative_to(ROOT).as_posix()
    if name in FRONT:
        return STAGE / FRONT[name]
    if name.startswith("docs/"):
        return STAGE / name.removeprefix("docs/")
    return STAGE / (name if name == "CHANGELOG.md" else f"files/{name}")


def staged(page: Path) -> str:
    """A page's text; the word behind a block's language, which is for the tests, is left out."""
    parts = _FENCE.split(page.read_text(encoding="utf-8"))
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = _INFO.sub(r"\1", part)
        else:
            parts[number] = _LINK.sub(lambda match: match[1] + link(page, match[2]) + match[3], part)
    return "".join(parts)


def link(page: Path, target: str) -> str:
    """What a link of a page is in the site. A file that is no page is copied."""
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return target
    there = (page.parent / path).resolve()
    if there.is_dir() or not there.exists():
        return target  # the strict build names it
    goal = place(there)
    if there.suffix != ".md":
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(there, goal)
    return os.path.relpath(goal, place(page).parent) + mark + anchor


if __name__ == "__main__":
    sys.exit(main())
