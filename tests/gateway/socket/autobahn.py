"""The Autobahn testsuite (`wstest`), in a cached environment of its own: it needs Python 2.7.

Where there is a Python 2.7 — named by RTCBRIDGE_PYTHON2, on the PATH, or under pyenv — the first use makes an
environment for it below the user's cache folder, with the version of PyPI that is named here; that takes a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = "25.10.1"
_RUN = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()"


def python2() -> str | None:
    """A Python 2.7 that works, if there is one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        os.environ.get("RTCBRIDGE_PYTHON2", ""),
        *(str(path) for path in sorted(pyenv.glob("2.7*/bin/python2.7"))),
        shutil.which("python2.7") or "",
    ]
    for candidate in filter(None, candidates):
        check = [candidate, "-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def site_folder(python: str) -> Path:
    """The folder with the testsuite and all that it needs; made if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtcbridge"
    folder = cache / f"autobahn-{VERSION}"
    if not folder.exists():
        building = cache / f"autobahn-{VERSION}.{os.getpid()}"
        building.parent.mkdir(parents=True, exist_ok=True)
        # virtualenv brings a pip for Python 2.7 along, which Debian's own Python 2.7 lacks.
        tools = building / "tools"
        _call(sys.executable, "-m", "pip", "install", "-q", "--target", str(tools), "virtualenv<20.22")
        env = {**os.environ, "PYTHONPATH": str(tools)}
        _call(sys.executable, "-m", "virtualenv", "-q", "-p", python, str(building / "env"), env=env)
        pip = [str(building / "env/bin/python"), "-m", "pip", "-q", "--disable-pip-version-check"]
        _call(*pip, "install", "--target", str(building / "site"), f"autobahntestsuite=={VERSION}")
        shutil.rmtree(folder, ignore_errors=True)
        (building / "site").rename(folder)
        shutil.rmtree(building)
    return folder


def command(python: str, spec: Path) -> list[str]:
    """The command that runs the cases of a specification."""
    return [python, "-W", "ignore", "-c", _RUN, str(site_folder(python)), "-m", "fuzzingclient", "-s", str(spec)]


def write_spec(folder: Path, uri: str, cases: list[str]) -> Path:
    """A specification that runs `cases` against the server at `uri`; the report goes to `folder`."""
    spec = folder / "spec.json"
    content = {
        "outdir": str(folder / "report"),
        "servers": [{"agent": "rtcbridge", "url": uri}],
        "cases": cases,
        "exclude-cases": ["12.*", "13.*"],  # compression, which is never negotiated
        "exclude-agent-cases": {},
    }
    spec.write_text(json.dumps(content))
    return spec


def verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    """Verdict on the behaviour and on the closing, by case."""
    report: dict[str, Any] = json.loads((folder / "report" / "index.json").read_text())["rtcbridge"]
    return {case: (result["behavior"], result["behaviorClose"]) for case, result in report.items()}


def _call(*command: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
