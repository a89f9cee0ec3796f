"""`rtcbridge node MODEL`: the agent beside a model."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import structlog

from rtcbridge.cli import UsageError
from rtcbridge.cli.logs import configure_logs
from rtcbridge.cli.tls import client_tls

if TYPE_CHECKING:
    from rtcbridge.media import Engine, IceServer
    from rtcbridge.node.agent import Agent, AgentConfig, ExitStatus
    from rtcbridge.node.worker import Worker

_USAGE = 2
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_LEVELS = ("debug", "info", "warning", "error")
_ENGINES = ("auto", "wrtc", "aiortc")
_MAX_SLOTS = 1000
_MAX_DRAIN = 86_400.0  # seconds

# Options that can come from the environment instead, as the providers pass them.
_ENVIRONMENT = {
    "model": "RTCBRIDGE_MODEL",
    "bridge": "RTCBRIDGE_URL",
    "key": "RTCBRIDGE_NODE_TOKEN",
    "pool": "RTCBRIDGE_POOL",
    "id": "RTCBRIDGE_NODE",
    "slots": "RTCBRIDGE_SLOTS",
    "engine": "RTCBRIDGE_NODE_ENGINE",
    "drain": "RTCBRIDGE_NODE_DRAIN",
    "ca": "RTCBRIDGE_CA",
    "log_level": "RTCBRIDGE_LOG_LEVEL",
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `node` to the subcommands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "node",
        help="run a model and serve the bridge's sessions with it",
        description="Run a model beside a WebRTC peer and serve the sessions that the bridge sends.",
        epilog="Each option can also come from the environment: "
        + ", ".join(f"{name} ({_option(key)})" for key, name in _ENVIRONMENT.items()),
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="module:function, file.py:function, or a built-in")
    parser.add_argument("--bridge", metavar="URL", help="ws:// or wss:// address of the bridge")
    parser.add_argument("--key", metavar="nk_…", help="the node's key; better in RTCBRIDGE_NODE_TOKEN")
    parser.add_argument("--pool", metavar="NAME", help="the pool to join (default: default)")
    parser.add_argument("--slots", metavar="N", help="sessions at one time (default: what the pool says)")
    parser.add_argument("--id", metavar="ID", help="the node's id (default: made from the host's name)")
    parser.add_argument("--engine", metavar="|".join(_ENGINES), help="the WebRTC library (default: auto)")
    parser.add_argument(
        "--ice-server",
        action="append",
        default=[],
        metavar="URL[,USER,PASSWORD]",
        help="a STUN or TURN server for offers that bring none; may be repeated",
    )
    parser.add_argument(
        "--drain",
        metavar="SECONDS",
        help="on SIGTERM, take no new session and let those that live go on so long (default: 0, stop at once)",
    )
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust for wss://, in PEM")
    parser.add_argument(
        "--insecure", action="store_true", help="trust any certificate; only for a bridge on this machine"
    )
    parser.add_argument("--log-level", metavar="|".join(_LEVELS), help="(default: info)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the node to its end, and the process with it.

    Raises:
        UsageError: the command line or the environment is not right, or the model cannot be loaded.
    """
    options = _options(args, os.environ)
    _configure_logs(options["log_level"])
    return _serve(*_prepare(options), options["drain"])


def _option(key: str) -> str:
    return "MODEL" if key == "model" else f"--{key.replace('_', '-')}"


def _options(args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what was given, the command line before the environment. Raises UsageError."""
    options = {key: getattr(args, key) or environment.get(name, "") for key, name in _ENVIRONMENT.items()}
    for key in ("model", "bridge", "key"):
        if not options[key]:
            raise UsageError(f"{_option(key)} is missing (or set {_ENVIRONMENT[key]})")
    options["pool"] = options["pool"] or "default"
    options["engine"] = options["engine"] or "auto"
    options["log_level"] = options["log_level"] or "info"
    for key, allowed in (("engine", _ENGINES), ("log_level", _LEVELS)):
        if options[key] not in allowed:
            raise UsageError(f"{_option(key)}: expected {', '.join(allowed)}, not {options[key]!r}")
    if not options["key"].startswith("nk_"):
        raise UsageError("--key: expected a node's key, which begins with nk_")
    options["slots"] = _slots(options["slots"])
    options["drain"] = _drain(options["drain"] or "0")
    options["id"] = options["id"] or _own_id()
    if not _IDENTIFIER.fullmatch(options["id"]):
        raise UsageError("--id: expected 1 to 128 letters, digits, or any of . _ : @ -")
    return options | {"ice_server": args.ice_server, "insecure": args.insecure}


def _slots(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_SLOTS:
        raise UsageError(f"--slots: expected a number from 1 to {_MAX_SLOTS}, not {text!r}")
    return int(text)


def _drain(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_DRAIN:
        raise UsageError(f"--drain: expected seconds from 0 to {_MAX_DRAIN:g}, not {text!r}")
    return seconds


def _own_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:100] or "node"
    return f"{host}-{secrets.token_hex(4)}"


def _prepare(options: dict[str, Any]) -> tuple[AgentConfig, Engine, Worker]:
    """Import the runtime, and load the model and the engine. Raises UsageError."""
    try:
        from rtcbridge.media import EngineUnavailableError, create_engine
        from rtcbridge.node.agent import AgentConfig
        from rtcbridge.node.link import LinkConfig
        from rtcbridge.node.loader import load_model
        from rtcbridge.node.model import ModelError
        from rtcbridge.node.worker import Worker
    except ImportError as error:
        raise UsageError(f"{error}: pip install 'rtcbridge[node]'") from None
    url = bridge_url(options["bridge"])
    link = LinkConfig(url, client_tls(url, options["ca"], options["insecure"]))
    config = AgentConfig(
        link=link,
        credential=options["key"],
        node=options["id"],
        pool=options["pool"],
        slots=options["slots"],
        ice_servers=[_ice_server(text) for text in options["ice_server"]],
    )
    try:
        spec = load_model(options["model"])
        return config, create_engine(options["engine"]), Worker(spec)
    except (ModelError, EngineUnavailableError) as error:
        if error.__cause__ is not None:
            structlog.get_logger().error("model_import_failed", exc_info=error.__cause__)
        raise UsageError(str(error)) from None


def bridge_url(text: str) -> str:
    """Return the address of the bridge's /node. Raises UsageError."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"--bridge: expected ws://HOST[:PORT] or wss://HOST[:PORT], not {text!r}")
    path = parts.path.rstrip("/")
    if not path.endswith("/node"):
        path += "/node"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _ice_server(text: str) -> IceServer:
    from rtcbridge.media import IceServer

    url, *login = text.split(",", 2)
    if url.partition(":")[0] not in ("stun", "stuns", "turn", "turns") or len(login) == 1:
        raise UsageError("--ice-server: expected stun:HOST or turn:HOST,USER,PASSWORD")
    return IceServer((url,), *login)


def _configure_logs(level: str) -> None:
    """Log text on a terminal and JSON elsewhere."""
    configure_logs(level, "console" if sys.stderr.isatty() else "json")
    # What these say while they are debugged holds SDP, addresses and the key.
    for name in ("aioice", "aiortc", "libav", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _serve(config: AgentConfig, engine: Engine, worker: Worker, drain: float) -> int:
    """Run the agent to its end, and end the process: it does not return.

    The model's thread may be in a call that never returns, and libraries' threads may outlive the interpreter.
    Nothing is left to be saved, so neither is waited for: whoever started a node must see at once that it ended.
    """
    from rtcbridge.node.agent import Agent, ExitStatus
    from rtcbridge.node.model import ModelError

    number, reason = 0, ""
    try:
        if asyncio.run(_run_agent(Agent(config, engine, worker), drain)) is ExitStatus.REFUSED:
            number, reason = 1, "the bridge refused this node: check --key, --pool and --id"
    except ModelError as error:
        number, reason = _USAGE, " ".join(str(error).split())
    if reason:
        print(f"rtcbridge node: {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(number)


async def _run_agent(agent: Agent, drain: float) -> ExitStatus:
    """Run it until a signal: SIGINT ends it at once, and so does SIGTERM, or after `drain` seconds."""
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def stop() -> None:
        stops.add(asyncio.create_task(agent.stop(), name="stop"))

    def terminate() -> None:
        stops.add(asyncio.create_task(agent.drain(drain) if drain else agent.stop(), name="terminate"))

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, stop)
    status = await agent.run()
    await asyncio.gather(*stops)
    return status
