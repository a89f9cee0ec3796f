"""Run the media benchmark: `python -m benchmarks.media`."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Sequence

import playwright.sync_api

from benchmarks.common.machine import describe, package_version, program_version
from benchmarks.common.report import replace_section
from benchmarks.media.browser import Bench, bench, chromium
from benchmarks.media.measure import Check, Result, Size, first_frame, latency_check, stream
from benchmarks.media.programs import PROJECTS, Contestant, contestants
from benchmarks.media.table import markdown, remarks

EXPLANATION = """\
Chromium, headless, draws a panning picture 29.9 times a second, just off the beat of its screen, with the time of
drawing in it as a barcode, sends it to the node, and reads the barcode out of what comes back; bridge, node and
browser share this machine. Glass to glass is from the drawing of a picture to the moment at which the browser
presents it (`presentationTime` of requestVideoFrameCallback). *Bare* is the engine's library alone in a minimal
echo peer: no bridge, no worker, every picture sent back uncopied; what stands before the × is the ratio to it.
Rounds alternate between the columns, each with a fresh session, and ratios are medians of the ratios of single
rounds. The node runs `passthrough`, which copies each picture out of the library and back as a model needs it."""


def _size(text: str) -> Size:
    match = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if not match or int(match[1]) % 2 or int(match[2]) % 30:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, width even, height a multiple of 30, not {text!r}")
    return Size(int(match[1]), int(match[2]))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    sizes = [Size(640, 480), Size(1280, 720)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; docs/ is left as it is")
    parser.add_argument("--engine", nargs="+", choices=[*PROJECTS], default=["wrtc"], help="columns (default wrtc)")
    parser.add_argument("--sizes", nargs="+", type=_size, default=sizes, metavar="WxH")
    parser.add_argument("--rounds", type=int, help="how often each stream is measured (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 10, quick 5)")
    parser.add_argument("--sessions", type=int, help="fresh sessions for the first frame (default 20, quick 3)")
    parser.add_argument("--no-report", action="store_true", help="print only, leave docs/ as it is")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (5.0 if options.quick else 10.0)
    options.sessions = options.sessions or (3 if options.quick else 20)
    return options


def _streams(
    page: Bench, all_: Sequence[Contestant], options: argparse.Namespace
) -> dict[Size, dict[str, list[Result]]]:
    found: dict[Size, dict[str, list[Result]]] = {}
    for size in options.sizes:
        rounds = found[size] = {one.name: [] for one in all_}
        for number in range(options.rounds):
            for one in all_ if number % 2 else reversed(all_):
                result = stream(page, one, size, options.seconds)
                rounds[one.name].append(result)
                _progress(
                    f"{size} round {number + 1}  {one.name:19} {result.fps:5.1f} fps  p50 {result.p50:5.1f}  "
                    f"p95 {result.p95:5.1f} ms  {result.cpu:.2f} s/s  others {result.others:.0%}"
                )
    return found


def _starts(page: Bench, all_: Sequence[Contestant], options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    size: Size = options.sizes[0]
    page.call("draw", size.width, size.height)
    found: dict[str, list[dict[str, float]]] = {one.name: [] for one in all_}
    for _ in range(options.sessions):
        for one in all_:
            found[one.name].append(first_frame(page, one))
    for name, sessions in found.items():
        _progress(f"first frame from offer  {name:19} " + " ".join(f"{times['fromOffer']:.0f}" for times in sessions))
    return found


def _checks(page: Bench, all_: Sequence[Contestant], seconds: int) -> dict[str, Check]:
    return {one.name: latency_check(page, one, seconds) for one in all_ if one.kind == "product"}


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _versions(engines: Sequence[str]) -> str:
    parts = [f"{name} {package_version(name)}" for name in ("rtcbridge", *engines)]
    return ", ".join([*parts, f"Python {sys.version.split()[0]}", program_version(chromium(), "--version")])


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the report's section."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of what stops the programs
    try:
        with bench() as page, contestants(options.engine) as all_:
            page.call("selfCheck")
            starts = _starts(page, all_, options)
            streams = _streams(page, all_, options)
            checks = _checks(page, all_, 5 if options.quick else 20)
    except RuntimeError as error:
        print(f"benchmarks.media: {error}", file=sys.stderr)
        return 1
    except playwright.sync_api.Error as error:  # behind its first line is the page's stack
        print(f"benchmarks.media: {error.message.splitlines()[0]}", file=sys.stderr)
        return 1
    table = markdown(streams, starts, all_)
    notes = "\n".join(f"- {text}" for text in remarks(streams, starts, checks))
    print(f"{table}\n\n{notes}")
    if not (options.quick or options.no_report):
        command = shlex.join(["python", "-m", "benchmarks.media", *arguments])
        lines = ["## Media", f"`{command}` on {describe()}. {_versions(options.engine)}.", EXPLANATION, table, notes]
        replace_section("media", "\n\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
