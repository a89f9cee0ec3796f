"""The TypeScript package as it is published: its files, its types and its size; and its own tests."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parents[2] / "sdk" / "js"
LARGEST = 12 * 1024  # bytes, compressed
APP = """
import { createClient, type Session } from "rtcbridge";
import { useRtcbridge } from "rtcbridge/react";

const client = createClient({ url: "wss://bridge.example", token: async () => "ek_x" });
export const begin = (stream: MediaStream): Session => client.connect({ stream, params: { style: "candy" } });
export const state: string = useRtcbridge(client, { stream: null }).state;
// @ts-expect-error: a credential is a text
createClient({ url: "wss://bridge.example", token: 1 });
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SDK / "node_modules").is_dir(), reason="run `npm ci` in sdk/js"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


def run(*command: str, cwd: Path = SDK) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packed package installed."""
    folder = tmp_path_factory.mktemp("app")
    run("npm", "run", "build")
    (packed,) = json.loads(run("npm", "pack", "--json", "--pack-destination", str(folder)))
    modules = folder / "node_modules"
    (modules / "rtcbridge").mkdir(parents=True)
    run("tar", "-xzf", str(folder / packed["filename"]), "--strip-components=1", "-C", str(modules / "rtcbridge"))
    for name in ("react", "@types"):
        (modules / name).symlink_to(SDK / "node_modules" / name)
    return folder


def test_it_has_no_dependency_and_is_small(package: Path) -> None:
    root = package / "node_modules" / "rtcbridge"
    said = json.loads((root / "package.json").read_text())
    assert said["type"] == "module"
    assert "dependencies" not in said
    named = [Path(path) for entry in said["exports"].values() for path in entry.values()]
    assert all((root / path).is_file() for path in named)
    assert {path.parts[0] for path in (file.relative_to(root) for file in root.rglob("*"))} == {
        "dist",
        "README.md",
        "package.json",
    }
    esbuild = str(SDK / "node_modules/.bin/esbuild")
    small = run(esbuild, "--minify", "--format=esm", str(root / "dist/index.js"))
    assert len(gzip.compress(small.encode())) < LARGEST


def test_its_types_hold_in_an_app(package: Path) -> None:
    (package / "app.ts").write_text(APP)
    options = [
        "--strict",
        "--noEmit",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
        "--types",
        "",
    ]
    (package / "package.json").write_text('{"type": "module"}')
    run(str(SDK / "node_modules/.bin/tsc"), *options, "app.ts", cwd=package)


def test_its_own_tests() -> None:
    assert "# fail 0" in run("npm", "run", "check")
