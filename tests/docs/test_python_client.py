"""docs/how-to/python-client.md and the README's "From Python": each block runs as a program, against a real service."""

import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from client.service import CLIP, service
from docs.pages import ROOT, Block, blocks
from gateway.programs import Home, environment

BLOCKS = [
    block
    for block in blocks("python", pages=[ROOT / "README.md", ROOT / "docs" / "how-to" / "python-client.md"])
    if block.info
]
SAYS = {
    "client.py": (r"\d+ [\d.]+ \(180, 320, 3\)", 3),
    "notebook.py": (r"^0\.5 \d", 1),
    "sources.py": (r"^(File|Camera|Pictures) \(\d+, \d+, 3\)", 30),
    "states.py": (r"^(live|rejected|\d+ \{)", 3),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with service(tmp_path_factory.mktemp("service"), model="styles") as made:
        yield made


def test_the_blocks_are_these() -> None:
    assert sorted(block.info for block in BLOCKS) == sorted(["client.py", *SAYS])


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=[block.where for block in BLOCKS])
def test_it_runs(block: Block, home: Home, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(90):
            picture = np.full((180, 320, 3), 80, np.uint8)
            picture[:, number : number + 60] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    text = block.text.replace("wss://bridge.example.org", home.url).replace("sk_…", home.client_key())
    text = text.replace("Camera(0,", f"Camera({str(CLIP)!r},")  # there is none here
    program = tmp_path / block.info
    program.write_text(text)
    run = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=90
    )
    assert (run.returncode, run.stderr) == (0, "")
    pattern, least = SAYS[block.info]
    assert len(re.findall(pattern, run.stdout, re.MULTILINE)) >= least, run.stdout
