"""`rtcbridge send FILE`: a video file through the service, into another file."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rtcbridge.cli import CommandError, Subparsers, UsageError, add_command
from rtcbridge.cli.logs import configure_logs
from rtcbridge.cli.tls import client_tls

if TYPE_CHECKING:
    from rtcbridge.client import File, Session
    from rtcbridge.client.recorder import Recorder

ENVIRONMENT = {"bridge": "RTCBRIDGE_URL", "key": "RTCBRIDGE_KEY", "ca": "RTCBRIDGE_CA"}
"""Options that can come from the environment instead."""

_ENGINES = ("auto", "wrtc", "aiortc")
_INTERRUPTED = 130
_EVERY = {True: 0.2, False: 1.0}  # seconds between two reports, on a terminal or not


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "send",
        _send,
        "style a video file through the service, in real time",
        epilog="--bridge, --key and --ca can also come from the environment: " + ", ".join(ENVIRONMENT.values()) + ".",
    )
    parser.add_argument("file", metavar="FILE", help="any video file that FFmpeg reads")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to: .mp4, .mov, .mkv or .webm")
    parser.add_argument("--bridge", metavar="URL", help="ws:// or wss:// address of the bridge")
    parser.add_argument("--key", metavar="sk_…", help="a project's key or a client's token; better in RTCBRIDGE_KEY")
    parser.add_argument("--model", metavar="NAME", help="refuse a node that runs another model")
    parser.add_argument("--style", metavar="NAME", help="the same as --param style=NAME")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the model; may be repeated"
    )
    parser.add_argument("--size", metavar="WxH", help="scale the pictures before they are sent; a 0 keeps their shape")
    parser.add_argument("--fps", metavar="N", help="pictures a second (default: as the file has them)")
    parser.add_argument(
        "--wait", nargs="?", const="inf", metavar="SECONDS", help="wait in line when no slot is free (default: fail)"
    )
    parser.add_argument("--progress", action="store_true", help="report on stderr; without a terminal, as JSON")
    parser.add_argument("--no-audio", action="store_true", help="leave the sound of the file out")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    parser.add_argument("--engine", metavar="|".join(_ENGINES), default="auto", help="the WebRTC library")
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust for wss://, in PEM")
    parser.add_argument(
        "--insecure", action="store_true", help="trust any certificate; only for a bridge on this machine"
    )


def _send(args: argparse.Namespace) -> int:
    try:
        import rtcbridge.client.recorder  # noqa: F401 - whether all that is needed is installed
        from rtcbridge.client import ClientError
    except ImportError as error:
        raise UsageError(f"{error}: pip install 'rtcbridge[client]'") from None
    options = _options(args, os.environ)
    configure_logs("error", "console")
    try:
        return asyncio.run(_Sending(options).run())
    except ClientError as error:
        raise (UsageError if error.code == "source_failed" else CommandError)(str(error)) from None


def _options(args: argparse.Namespace, environment: Mapping[str, str]) -> argparse.Namespace:
    """Check what was given, and complete it. Raises UsageError."""
    from rtcbridge.client.client import client_url

    for key, name in ENVIRONMENT.items():
        setattr(args, key, getattr(args, key) or environment.get(name, ""))
    for key in ("bridge", "key"):
        if not getattr(args, key):
            raise UsageError(f"--{key} is missing (or set {ENVIRONMENT[key]})")
    try:
        args.bridge = client_url(re.sub(r"/node/?$", "", args.bridge))  # RTCBRIDGE_URL may be a node's
    except ValueError as error:
        raise UsageError(f"--bridge: {error}") from None
    args.tls = client_tls(args.bridge, args.ca, args.insecure)
    if args.engine not in _ENGINES:
        raise UsageError(f"--engine: expected {', '.join(_ENGINES)}, not {args.engine!r}")
    args.params = _params(args.param, args.style)
    args.size = _size(args.size)
    args.fps = None if args.fps is None else _number("--fps", args.fps, 1, 240)
    args.wait = 0.0 if args.wait is None else _number("--wait", args.wait, 0, math.inf)
    args.output = _output(args)
    return args


def _output(args: argparse.Namespace) -> Path:
    if not args.output:
        raise UsageError("-o is missing: expected the file to write")
    output = Path(args.output)
    if output.exists() and Path(args.file).exists() and output.samefile(args.file):
        raise UsageError(f"-o: {output} is the file that is to be read")
    if output.exists() and not args.force:
        raise UsageError(f"-o: {output} exists; --force overwrites it")
    if not output.parent.is_dir():
        raise UsageError(f"-o: there is no folder {output.parent}")
    return output


def _params(given: list[str], style: str | None) -> dict[str, Any]:
    params: dict[str, Any] = {} if style is None else {"style": style}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--param: expected NAME=VALUE, not {text!r}")
        params[name] = _value(value)
    return params


def _value(text: str) -> Any:
    """A number, `true` or `false`, or else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or text == "0x0":
        raise UsageError(f"--size: expected WxH, such as 640x360 or 640x0, not {text!r}")
    return int(match[1]), int(match[2])


def _number(option: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UsageError(f"{option}: expected a number from {least:g} to {most:g}, not {text!r}")
    return value


class _Sending:
    """One file through the service."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._report = _Report(sys.stderr) if options.progress else None
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        """Send it, and return the exit status. Raises ClientError, CommandError and UsageError."""
        from rtcbridge.client import Client, File

        options = self._options
        file = File(options.file, size=options.size, fps=options.fps)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted.set)
        client = Client(options.bridge, options.key, tls=options.tls, engine=options.engine)
        session = client.connect(
            file,
            model=options.model,
            params=options.params,
            wait=None if math.isinf(options.wait) else options.wait,
            sync=True,
            on_state=self._on_state,
        )
        work = asyncio.create_task(self._copy(session, file))
        stop = asyncio.create_task(self._interrupted.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            work.cancel()
        try:
            return await work
        except asyncio.CancelledError:
            return _INTERRUPTED
        finally:
            if self._report is not None:
                self._report.end()

    async def _copy(self, session: Session, file: File) -> int:
        from rtcbridge.client import ClientError
        from rtcbridge.client.recorder import Recorder

        failed: ClientError | None = None
        async with session:
            source = None if self._options.no_audio or file.live else Path(self._options.file)
            recorder = await asyncio.to_thread(Recorder, self._options.output, source, file.fps)
            try:
                await self._write(session, file, recorder)
            except ClientError as error:
                failed = error
            except asyncio.CancelledError:
                pass  # what has come is kept
            except BaseException:
                recorder.discard()
                raise
        written = await asyncio.to_thread(recorder.finish)
        return self._result(file, recorder, written, failed)

    async def _write(self, session: Session, file: File, recorder: Recorder) -> None:
        async for frame in session:
            await asyncio.shield(asyncio.to_thread(recorder.write, frame, (file.width, file.height)))
            if self._report is not None:
                self._report.frame(session, recorder.frames, frame.time, file.duration)

    def _result(self, file: File, recorder: Recorder, written: bool, failed: Exception | None) -> int:
        kept = f"the first {recorder.seconds:.1f} s are in {self._options.output}" if written else "nothing was written"
        if failed is not None:
            raise CommandError(f"{str(failed).rstrip('.')}; {kept}")
        if self._interrupted.is_set():
            print(f"\nrtcbridge send: interrupted; {kept}", file=sys.stderr)
            return _INTERRUPTED
        if not written:
            raise CommandError("no frame came back")
        return 0

    def _on_state(self, session: Session) -> None:
        if self._report is not None:
            self._report.state(session)


class _Report:
    """Says how it goes: on a terminal in one line, otherwise as one JSON object a line."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._tty = to.isatty()
        self._last = 0.0
        self._told = ""

    def state(self, session: Session) -> None:
        """The state, or the place in line, has changed."""
        place = session.place
        fields = {"state": str(session.state)} | ({"position": place.position, "eta": place.eta} if place else {})
        words = str(session.state) + (f", number {place.position} in line" if place else "")
        words += f", about {place.eta} s" if place and place.eta else ""
        self._tell(words, fields)

    def frame(self, session: Session, frames: int, at: float, duration: float) -> None:
        """A frame was written, of this time in the file."""
        now = time.monotonic()
        if now - self._last < _EVERY[self._tty]:
            return
        self._last = now
        done = min(1.0, at / duration) if duration else 0.0
        latency = session.latency
        fps = session.stats.get("fps_out", 0.0)
        words = f"{done:4.0%}  {at:.1f} of {duration:.1f} s  {frames} frames  {fps:g} fps"
        words += "" if latency is None else f"  {latency * 1000:.0f} ms"
        fields = {"frames": frames, "time": round(at, 3), "duration": round(duration, 3), "fps": fps}
        self._tell(words, fields | ({} if latency is None else {"latency": round(latency, 3)}))

    def end(self) -> None:
        """Leave the line."""
        if self._tty and self._told:
            print(file=self._to)

    def _tell(self, words: str, fields: Mapping[str, Any]) -> None:
        text = words if self._tty else json.dumps(fields)
        if text != self._told:
            self._told = text
            print(f"\r\x1b[K{text}" if self._tty else text, end="" if self._tty else "\n", file=self._to, flush=True)
