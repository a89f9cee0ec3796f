"""`rtcbridge conformance URL`: does a bridge honour the protocol?"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rtcbridge.cli import Subparsers, UsageError, add_command
from rtcbridge.cli.table import plain
from rtcbridge.cli.tls import client_tls

if TYPE_CHECKING:
    from rich.console import Console

    from rtcbridge.conformance import Result, Suite

ENVIRONMENT = {"key": "RTCBRIDGE_KEY", "node_key": "RTCBRIDGE_NODE_KEY", "ca": "RTCBRIDGE_CA"}
"""Options that can come from the environment instead."""

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_COLOURS = {"pass": "green", "fail": "bold red", "skip": "dim"}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "conformance",
        _conformance,
        "play clients, and with a node key nodes, against any bridge and say which rules it honours",
        epilog="Exit status: 0 all that was played has passed, 1 something failed, 2 nothing could be played. "
        "--key, --node-key and --ca can also come from the environment: " + ", ".join(ENVIRONMENT.values()) + ".",
    )
    parser.add_argument("url", metavar="URL", help="ws:// or wss:// address of the bridge")
    parser.add_argument("--key", metavar="sk_…", help="a key of a client; better in RTCBRIDGE_KEY")
    parser.add_argument("--node-key", metavar="nk_…", help="a key of nodes; the pool must be static, and unused")
    parser.add_argument("--revoked-key", metavar="sk_…", help="a key of a client that is no longer valid")
    parser.add_argument("--pool", metavar="NAME", default="default", help="the pool of both keys (default: default)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only chapters, names or rules with this text")
    parser.add_argument("--slow", action="store_true", help="wait for the documented deadlines as well: minutes")
    parser.add_argument("--timeout", metavar="SECONDS", default="5", help="that an answer may take (default 5)")
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        default="0.2",
        help="after which what was sent to one socket has shown at others (default 0.2)",
    )
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust for wss://, in PEM")
    parser.add_argument(
        "--insecure", action="store_true", help="trust any certificate; only for a bridge on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def _conformance(args: argparse.Namespace) -> int:
    from rtcbridge.conformance import UnplayableError

    try:
        return asyncio.run(_run(_suite(args), as_json=args.json))
    except UnplayableError as error:
        raise UsageError(plain(error)) from None


def _suite(args: argparse.Namespace) -> Suite:
    """Check what was given. Raises UsageError."""
    from rtcbridge.conformance import Suite, Target

    for name, variable in ENVIRONMENT.items():
        setattr(args, name, getattr(args, name) or os.environ.get(variable, ""))
    if not args.key:
        raise UsageError(f"--key is missing (or set {ENVIRONMENT['key']})")
    url = _address(args.url)
    values = {"client_key": args.key, "pool": args.pool, "node_key": args.node_key, "revoked_key": args.revoked_key}
    target = Target(
        url,
        {name: value for name, value in values.items() if value},
        client_tls(url, args.ca, args.insecure),
        _seconds("--timeout", args.timeout, 0.1),
        _seconds("--pause", args.pause, 0.0),
    )
    suite = Suite(target, args.slow, args.only)
    if not suite.chosen():
        raise UsageError(f"--only: no rule has the text {args.only!r}")
    return suite


def _address(text: str) -> str:
    """The address without the endpoint. Raises UsageError."""
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0 and not parts.query
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"expected ws://HOST[:PORT] or wss://HOST[:PORT], not {text!r}")
    path = re.sub(r"/(client|node)$", "", parts.path.rstrip("/"))
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}"


def _seconds(option: str, text: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= 600:
        raise UsageError(f"{option}: expected seconds from {least:g} to 600, not {text!r}")
    return value


async def _run(suite: Suite, *, as_json: bool) -> int:
    import msgspec
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    results: list[Result] = []
    async for result in suite.run():
        if not as_json:
            _show(console, result, starts=not results or results[-1].chapter != result.chapter)
        results.append(result)
    counts = Counter(str(result.outcome) for result in results)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(results), indent=2).decode())
    else:
        console.print(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
    return 1 if counts["fail"] else 0


def _show(console: Console, result: Result, *, starts: bool) -> None:
    if starts:
        console.print(f"\n{result.chapter}", style="bold")
    line = f"  {result.outcome}  {result.dialect:10}  {result.name}: {result.rule}"
    console.print(plain(line), style=_COLOURS[result.outcome])
    if result.detail:
        word = {"fail": "came instead", "skip": "skipped"}[result.outcome]
        console.print(plain(f"        {word}: {result.detail}"), style=_COLOURS[result.outcome])
