"""`rtcbridge send` as a program, against a real bridge with a real node: what is in the file, and how it fails."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import structlog

from client.service import CLIP, service
from gateway.programs import RTCBRIDGE, Home, Program, environment, until
from rtcbridge.cli import main

SECONDS, FPS, RATE = 5, 30, 48_000
BEEPS = range(1, SECONDS)  # seconds at which there is a beep, and the picture turns white


def make(path: Path, *, audio: str | None = "aac", video: str = "libx264", size: tuple[int, int] = (320, 180)) -> Path:
    """A file with moving stripes; at each second it turns white for three pictures, and beeps."""
    width, height = size
    with av.open(str(path), "w") as out:
        stream = out.add_stream(video, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound: Any = out.add_stream(audio, rate=RATE, layout="mono") if audio else None
        for number in range(SECONDS * FPS):
            picture = np.full((height, width, 3), 60, np.uint8)
            at = number * 3 % (width - 40)
            picture[:, at : at + 40] = (40, 90, 160)
            if number // FPS in BEEPS and number % FPS < 3:
                picture[:] = 235
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            times = np.arange(SECONDS * RATE) / RATE
            on = (times >= 1) & (times % 1 < 0.1)
            samples = (np.sin(2 * np.pi * 1000 * times) * on * 12_000).astype(np.int16)
            for start in range(0, len(samples), 960):
                piece = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = RATE, start, Fraction(1, RATE)
                for ready in av.AudioResampler(sound.codec_context.format or "fltp", "mono", RATE).resample(piece):
                    out.mux(sound.encode(ready))
            out.mux(sound.encode(None))
    return path


def pictures(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as file:
        return [(float(f.time), f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]


def beeps(path: Path) -> list[float]:
    """When it becomes loud."""
    with av.open(str(path)) as file:
        parts = [(float(f.time), f.to_ndarray().astype(float), f.sample_rate) for f in file.decode(audio=0)]
    found: list[float] = []
    for at, samples, rate in parts:
        samples = samples / (32_768 if np.abs(samples).max() > 2 else 1)
        loud = np.flatnonzero(np.abs(samples[0]) > 0.1)
        if len(loud) and (not found or at + loud[0] / rate - found[-1] > 0.5):
            found.append(at + loud[0] / rate)
    return found


def flashes(path: Path) -> list[float]:
    """When the inverted picture turns black."""
    found: list[float] = []
    for at, picture in pictures(path):
        if picture.mean() < 60 and (not found or at - found[-1] > 0.5):
            found.append(at)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with service(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.client_key()


Send = Callable[..., Program]


@pytest.fixture
def send(home: Home, key: str) -> Iterator[Send]:
    """Starts `rtcbridge send` with these words, when the slot is free."""
    started: list[Program] = []

    def start(*words: object, at_once: bool = False) -> Program:
        if not at_once:
            until(lambda: all(row.ended is not None for row in home.sessions()), "the slot is free")
        env = environment(RTCBRIDGE_URL=home.url, RTCBRIDGE_KEY=key)
        started.append(Program(*RTCBRIDGE, "send", *map(str, words), env=env))
        return started[-1]

    yield start
    for program in started:
        program.dispose()


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "audio"), [("mp4", "aac"), ("webm", "aac"), ("mkv", "pcm_s16le")])
def test_a_file_is_styled_with_its_sound_in_step(send: Send, tmp_path: Path, ending: str, audio: str) -> None:
    source = make(tmp_path / ("clip.mkv" if audio != "aac" else "clip.mp4"), audio=audio)
    out = tmp_path / f"out.{ending}"
    program = send(source, "-o", out, "--progress")
    assert program.wait() == 0, program.text
    before, after = pictures(source), pictures(out)
    assert len(after) >= 0.9 * len(before)
    assert abs(after[-1][0] - before[-1][0]) < 0.2
    with av.open(str(out)) as file:
        assert abs(file.duration / 1e6 - SECONDS) < 0.2
        assert len(file.streams.audio) == 1
    dark = [np.abs(255 - dict_nearest(before, at).astype(int) - picture).mean() for at, picture in after]
    assert np.median(dark) < 12
    assert np.mean(np.array(dark) < 25) > 0.95
    seen, heard = flashes(out), beeps(out)
    assert seen == pytest.approx(list(BEEPS), abs=0.08)
    assert heard == pytest.approx(list(BEEPS), abs=0.06)
    told = [json.loads(line) for line in program.lines]
    assert {"state": "live"} in told
    assert told[-2]["frames"] > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def dict_nearest(frames: list[tuple[float, np.ndarray]], at: float) -> np.ndarray:
    return min(frames, key=lambda frame: abs(frame[0] - at))[1]


@pytest.mark.slow
def test_it_says_nothing_and_takes_parameters_size_and_rate(send: Send, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    words = ("--param", "level=200", "--size", "160x0", "--fps", "15", "--model", "invert")
    program = send(make(tmp_path / "clip.mp4", audio=None), "-o", out, *words)
    assert (program.wait(), program.lines) == (0, [])
    found = pictures(out)
    assert found[0][1].shape == (90, 160, 3)
    assert 0.9 * SECONDS * 15 <= len(found) <= SECONDS * 15 + 1
    assert abs(np.median([picture.mean() for _, picture in found]) - 135) < 20


@pytest.mark.slow
def test_ctrl_c_leaves_what_has_come(send: Send, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    program = send(CLIP, "-o", out, "--progress")
    program.wait_for(lambda line: json.loads(line).get("frames", 0) > 30, "it has begun")
    assert program.end(signal.SIGINT) == 130
    assert "rtcbridge send: interrupted; the first" in program.lines[-1]
    assert 30 < len(pictures(out)) < 330


@pytest.mark.slow
def test_on_a_terminal_it_reports_in_one_line(home: Home, key: str, tmp_path: Path) -> None:
    until(lambda: all(row.ended is not None for row in home.sessions()), "the slot is free")
    source = make(tmp_path / "clip.mp4", audio=None)
    ours, theirs = pty.openpty()
    env = environment(RTCBRIDGE_URL=home.url, RTCBRIDGE_KEY=key)
    words = [*RTCBRIDGE, "send", str(source), "-o", str(tmp_path / "out.mp4"), "--progress"]
    with subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=theirs) as program:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
        assert program.wait(30) == 0
    os.close(ours)
    lines = said.decode().split("\r\x1b[K")
    assert any("% " in line and "fps" in line and "of 5.0 s" in line for line in lines)
    assert said.count(b"\n") == 1


@pytest.mark.slow
def test_errors_of_the_service_are_one_line_and_status_1(send: Send, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    for words, text in (
        (("--style", "candy"), "style"),
        (("--model", "styles"), "The node runs the model 'invert', not 'styles'."),
        (("--key", "sk_TEST01_wrong"), "The bridge did not accept the credential."),
        (("--bridge", "ws://127.0.0.1:9"), "The bridge cannot be reached: "),
    ):
        program = send(CLIP, "-o", out, *words)
        assert program.wait() == 1, words
        assert len(program.lines) == 1, program.text
        assert program.lines[0].startswith("rtcbridge send: ")
        assert text in program.lines[0]
    assert list(tmp_path.iterdir()) == []
    first = send(CLIP, "-o", out, "--progress")
    first.wait_for(lambda line: "live" in line, "it is live")
    second = send(CLIP, "-o", tmp_path / "2.mp4", at_once=True)
    assert second.wait() == 1
    assert re.fullmatch(r"rtcbridge send: No slot is free, number 1 in line(, about \d+ s)?\.", second.text)
    third = send(CLIP, "-o", tmp_path / "3.mp4", "--wait", "--progress", at_once=True)
    third.wait_for(lambda line: json.loads(line).get("position") == 1, "it is in the line")
    first.end(signal.SIGINT)
    third.wait_for(lambda line: json.loads(line).get("frames", 0) > 0, "its turn has come")
    assert third.end(signal.SIGINT) == 130


@pytest.fixture
def only_errors_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the command has it, for this test alone: its own way would last as long as the process."""
    monkeypatch.setattr("rtcbridge.cli.send.configure_logs", lambda _level, _style: None)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("only_errors_logged")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FILE"], "--bridge is missing (or set RTCBRIDGE_URL)"),
        (["FILE", "--bridge", "ws://x"], "--key is missing (or set RTCBRIDGE_KEY)"),
        (["FILE", "--bridge", "ftp://x", "--key", "k"], "--bridge: expected ws://HOST"),
        (["FILE", "--bridge", "ws://x", "--key", "k"], "-o is missing: expected the file to write"),
        (["GOOD", "--insecure"], "--ca and --insecure are for wss:// only"),
        (["GOOD", "--param", "strength"], "--param: expected NAME=VALUE, not 'strength'"),
        (["GOOD", "--size", "big"], "--size: expected WxH, such as 640x360 or 640x0, not 'big'"),
        (["GOOD", "--size", "8x8"], "size: sides have 16 to 8192 pixels, not 8x8"),
        (["GOOD", "--fps", "fast"], "--fps: expected a number from 1 to 240, not 'fast'"),
        (["GOOD", "--wait", "-1"], "--wait"),
        (["GOOD", "--engine", "gstreamer"], "--engine: expected auto, wrtc, aiortc, not 'gstreamer'"),
        (["MISSING"], "missing.mp4: there is no such file"),
        (["TEXT"], "text.mp4: Invalid data found when processing input"),
        (["SOUND"], "sound.mp4: there is no video in it"),
        (["GOOD", "-o", "EXISTS"], "exists; --force overwrites it"),
        (["GOOD", "-o", "FILE", "--force"], "is the file that is to be read"),
        (["GOOD", "-o", "nowhere/out.mp4"], "there is no folder nowhere"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith("RTCBRIDGE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "exists.mp4").write_text("precious")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream: Any = out.add_stream("aac", rate=RATE, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        piece.sample_rate, piece.pts = RATE, 0
        out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    options = ["--bridge", "ws://127.0.0.1:9", "--key", "sk_TEST01_x", "-o", "out.mp4"]
    names = {"FILE": [str(CLIP)], "GOOD": [str(CLIP), *options], "EXISTS": ["exists.mp4"]}
    names |= {name: [f"{name.lower()}.mp4", *options] for name in ("MISSING", "TEXT", "SOUND")}
    assert main(["send", *(word for name in words for word in names.get(name, [name]))]) == 2
    out_text, err = capsys.readouterr()
    assert out_text == ""
    assert err.startswith("rtcbridge send: ")
    assert message in err
    assert err.count("\n") == 1
    assert (tmp_path / "exists.mp4").read_text() == "precious"
    assert not (tmp_path / "out.mp4").exists()
