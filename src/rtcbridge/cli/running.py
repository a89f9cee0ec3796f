"""Running a bridge in this process: drivers picked by the configuration, signals, the end."""

import asyncio
import errno
import gc
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from rtcbridge.cli import CommandError
from rtcbridge.cli.lock import RunningBridge, held_store
from rtcbridge.config import Config
from rtcbridge.drivers.engine import open_engine
from rtcbridge.drivers.ice import make_ice_servers
from rtcbridge.drivers.ledger import Database, KeyStore, SessionLedger
from rtcbridge.drivers.providers import make_provider
from rtcbridge.gateway.server import Server
from rtcbridge.ports_engine import EngineError

# A session makes some dozens of objects that die with it, without any cycle: to look at them often finds nothing.
_GC_THRESHOLDS = (20_000, 20, 20)
SERVE_UNTIL = (signal.SIGINT, signal.SIGTERM)


def run_bridge(
    config: Config,
    *,
    credential: Callable[[KeyStore], str] = lambda keys: "",
    ready: Callable[[Server], None] = lambda server: None,
    after: Callable[[], Awaitable[object]] | None = None,
    until: Sequence[signal.Signals] = SERVE_UNTIL,
) -> None:
    """Serve until a signal; SIGHUP, if it is not among these, reads the certificate again.

    Args:
        config: The configuration.
        credential: Makes the key that the page is given over loopback; empty for none.
        ready: Called when the bridge listens.
        after: Awaited when it has stopped, also when it could not start.
        until: The signals that end it.

    Raises:
        CommandError: The address cannot be had, a TLS file cannot be used, or another bridge has the store.
        LedgerError: The store cannot be opened, or another bridge has it.
    """
    with held_store(config) as (store, announce):
        keys = KeyStore(store)

        def listens(server: Server) -> None:
            tls = config.server.tls_cert
            announce(RunningBridge(config.local_url(server.listener.port), os.path.abspath(tls) if tls else ""))
            ready(server)

        try:
            _run(_serve(config, store, keys, credential(keys), listens, after, until))
        finally:
            keys.close()


def _run(main: Coroutine[object, object, None]) -> None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(
    config: Config,
    store: Database,
    keys: KeyStore,
    credential: str,
    ready: Callable[[Server], None],
    after: Callable[[], Awaitable[object]] | None,
    until: Sequence[signal.Signals],
) -> None:
    ledger = SessionLedger(store)
    providers = {pool.name: make_provider(pool) for pool in config.pools}
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in until:
        loop.add_signal_handler(number, stopping.set)
    try:
        engine = None
        if config.engine.is_shared:
            engine = open_engine(config.engine.url, socket.gethostname(), grace=config.sessions.resume_grace)
        server = Server(config, keys, ledger, providers, credential, engine, make_ice_servers(config.ice))
        if signal.SIGHUP not in until:
            loop.add_signal_handler(signal.SIGHUP, server.reload_tls)
        await _start(server, config)
        # What lives from here to the end need not be looked at again by the garbage collector.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        ready(server)
        await stopping.wait()
        for number in until:
            loop.remove_signal_handler(number)  # a second Ctrl-C ends it at once
        await server.stop()
    finally:
        if after is not None:
            await after()
        await ledger.close()


async def _start(server: Server, config: Config) -> None:
    where = f"{config.server.host}:{config.server.port}"
    try:
        await server.start()
    except EngineError as error:
        raise CommandError(str(error)) from None
    except ssl.SSLError as error:
        raise CommandError(f"server.tls_cert, server.tls_key: expected a certificate and its key: {error}") from None
    except OSError as error:
        if error.filename is not None:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        if error.errno == errno.EADDRINUSE:
            raise CommandError(f"port {config.server.port} on {config.server.host} is taken; choose another") from None
        raise CommandError(f"cannot listen on {where}: {error.strerror or error}") from None
