"""What is committed as built is what the sources build."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rtcbridge

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(rtcbridge.__file__).parent / "gateway" / "static"


def test_the_built_page_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "console/current.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_computes_the_same_digest() -> None:
    done = subprocess.run(["node", ROOT / "console/build.mjs", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_asks_nothing_of_other_hosts_and_has_no_inline_script() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r'<script(?![^>]* src="/assets/)', page) == []
    assert re.findall(r"<style| style=| on[a-z]+=", page) == []
    for path in [STATIC / "index.html", *(STATIC / "assets").glob("*.[cj]s*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+", text) == [], path.name


@pytest.mark.parametrize("folder", ["console", "sdk/js"])
def test_the_lock_files_name_no_registry(folder: str) -> None:
    lock = (ROOT / folder / "package-lock.json").read_text()
    assert '"lockfileVersion"' in lock
    assert '"resolved"' not in lock
