"""`rtcbridge demo`: bridge, a pool of local nodes, and the page, on this machine, and nothing of it left behind."""

import argparse
import contextlib
import fcntl
import ipaddress
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rtcbridge import config
from rtcbridge.cli import CommandError, Subparsers, UsageError, add_command

if TYPE_CHECKING:
    from rtcbridge.drivers.ledger import KeyStore
    from rtcbridge.gateway.server import Server

PROJECT = "DEMO00"
_LOCK = "demo.lock"
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "demo", _demo, "run everything on this machine and print the page's address")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 for other machines as well")
    parser.add_argument("--port", type=_port, default=8080, help="default 8080")
    parser.add_argument(
        "--tls", action="store_true", help="https with a certificate made here: other devices' cameras need it"
    )
    parser.add_argument("--model", default="styles", help="a built-in model, or file.py:function (default: styles)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expects a number from 0 to 65535, got {text!r}")
    return int(text)


def _demo(args: argparse.Namespace) -> int:
    from rtcbridge.cli.logs import configure_logs
    from rtcbridge.cli.running import SERVE_UNTIL, run_bridge
    from rtcbridge.drivers.providers import sweep
    from rtcbridge.ports import ProviderError

    _check_model(args.model)
    configure_logs(args.log_level, "console")
    _clear_killed(_states())
    with _own_state(_states()) as state:
        settings = _config(args, state)
        nodes = settings.pools[0].local.state
        issued: list[str] = []

        def credential(keys: "KeyStore") -> str:
            issued.append(keys.create_client_key(PROJECT))
            return issued[0]

        def ready(server: "Server") -> None:
            _announce(args, server.listener.port, issued[0], nodes)

        async def end_nodes() -> None:
            try:
                await sweep(nodes)
            except ProviderError as error:
                raise CommandError(str(error)) from None

        # A terminal that is closed sends SIGHUP.
        until = (*SERVE_UNTIL, signal.SIGHUP)
        run_bridge(settings, credential=credential, ready=ready, after=end_nodes, until=until)
        print("Stopped; nothing is left running.", flush=True)
    return 0


def _check_model(model: str) -> None:
    """Find a mistyped model now, and not in a node's log. Raises UsageError."""
    from rtcbridge.node.models import BUILT_IN

    place, colon, _ = model.rpartition(":")
    if not colon and model not in BUILT_IN:
        raise UsageError(f"--model expects file.py:function, or one of {', '.join(BUILT_IN)}, got {model!r}")
    if place.endswith(".py") and not Path(place).is_file():
        raise UsageError(f"--model: there is no file {place}")


def _config(args: argparse.Namespace, state: Path) -> config.Config:
    certificate = key = ""
    node_args: tuple[str, ...] = ()
    if args.tls:
        from rtcbridge.cli.certificate import make_certificate

        certificate, key = make_certificate(state, [args.host, *_addresses()])
        node_args = ("--ca", certificate)
    model = args.model
    if model.partition(":")[0].endswith(".py"):
        model = str(Path(model).absolute())
    pool = config.Pool(
        slots=2,
        min_ready=1,
        max_nodes=2,
        local=config.LocalOptions(model=model, args=node_args, state=str(state / "nodes"), stop_grace=2.0),
    )
    return config.Config(
        server=config.Server(host=args.host, port=args.port, tls_cert=certificate, tls_key=key, shutdown_timeout=2.0),
        store=config.Store(url=f"sqlite:///{state / 'demo.db'}"),
        pools=(pool,),
    )


def _announce(args: argparse.Namespace, port: int, key: str, nodes: str) -> None:
    scheme = "https" if args.tls else "http"
    own = "localhost" if args.host in _WILDCARDS else args.host
    if ":" in own:
        own = f"[{own}]"
    print(f"\n  rtcbridge demo\n\n  On this machine:  {scheme}://{own}:{port}/")
    if args.host in _WILDCARDS:
        for address in _addresses():
            print(f"  On the network:   {scheme}://{address}:{port}/#key={key}")
        if args.tls:
            print("  The certificate was made here, so a browser asks once whether to go on.")
        else:
            print("  Cameras of other devices need https: add TLS=1 (--tls).")
    elif not _is_loopback(args.host):
        print(f"  Key for the page: {key}")
    print(f"\n  Logs of the nodes: {nodes}\n  Ctrl-C ends everything.\n", flush=True)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _addresses() -> list[str]:
    """The IPv4 addresses by which other machines may reach this one."""
    import psutil

    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return sorted(address for address in set(found) if not _is_loopback(address))


# --- state: one folder a running demo, which holds a lock in it for as long as it lives ---


def _states() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rtcbridge" / "demos"


@contextlib.contextmanager
def _own_state(states: Path) -> Iterator[Path]:
    state = states / str(os.getpid())
    try:
        state.mkdir(parents=True)
        descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"{state}: {error.strerror}") from None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield state
    finally:
        shutil.rmtree(state, ignore_errors=True)
        os.close(descriptor)


def _clear_killed(states: Path) -> None:
    """End and remove what demos that were killed have left; demos that run hold their lock, and stay."""
    import asyncio

    from rtcbridge.drivers.providers import sweep
    from rtcbridge.ports import ProviderError

    for state in sorted(states.iterdir()) if states.is_dir() else []:
        try:
            descriptor = os.open(state / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            shutil.rmtree(state, ignore_errors=True)
            continue
        except OSError as error:
            raise UsageError(f"{state}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("Clearing what an earlier demo left …", file=sys.stderr, flush=True)
            asyncio.run(sweep(state / "nodes"))
            shutil.rmtree(state, ignore_errors=True)
        except BlockingIOError:
            pass
        except ProviderError as error:
            raise CommandError(str(error)) from None
        finally:
            os.close(descriptor)
