"""Tell whether the built page in src/rtcbridge/gateway/static is that of the present sources.

Needs neither Node nor a package. Exit status 0: current. 1: one line on stderr says what to do.
The same digest is computed in build.mjs.
"""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "src/rtcbridge/gateway/static"
SOURCES = (
    "console/src",
    "console/clip/clip.webm",
    "console/build.mjs",
    "console/package-lock.json",
    "sdk/js/src",
)


def sha256(data: bytes) -> str:
    """The digest, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest() -> str:
    """One digest over the names and contents of all sources."""
    paths = [p for s in SOURCES for p in ([ROOT / s] if (ROOT / s).is_file() else (ROOT / s).rglob("*"))]
    lines = sorted(f"{p.relative_to(ROOT).as_posix()} {sha256(p.read_bytes())}\n" for p in paths if p.is_file())
    return sha256("".join(lines).encode())


def is_current() -> bool:
    """Whether the sources are those of the build, and the built files are as the build left them."""
    try:
        stamp = json.loads((OUT / "BUILD.json").read_text())
        intact = all(sha256((OUT / path).read_bytes()) == wanted for path, wanted in stamp["files"].items())
    except (OSError, ValueError, KeyError):
        return False
    return bool(intact and stamp["sources"] == digest())


if __name__ == "__main__":
    if not is_current():
        sys.exit("the built page is not current: run `npm ci && npm run build` in console/")
