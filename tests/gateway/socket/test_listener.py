from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.socket.conftest import Certificate
from gateway.socket.tools import TIMEOUT, Client, Server, close_frame, frame, text, until
from rtcbridge.gateway.listener import tls_context
from rtcbridge.gateway.socket_group import End, Limits

Serve = Callable[..., Awaitable[Server]]
Certificates = tuple[Certificate, Certificate]


async def _code(ws: object) -> int:
    with pytest.raises(ConnectionClosed) as raised:
        await asyncio.wait_for(ws.recv(), TIMEOUT)  # type: ignore[attr-defined]
    assert raised.value.rcvd is not None
    return raised.value.rcvd.code


@pytest.mark.parametrize("secure", [False, True])
async def test_close_with_many_clients(serve: Serve, certificates: Certificates, secure: bool) -> None:
    server = await serve(tls=certificates[0] if secure else None)
    uri = f"{'wss' if secure else 'ws'}://localhost:{server.listener.port}/ws"
    clients = [await connect(uri, ssl=server.tls) for _ in range(5)]
    port = server.listener.port
    half = await server.connect()  # has not sent its request
    codes = asyncio.gather(*map(_code, clients))
    started = asyncio.get_running_loop().time()
    await server.listener.close(1012, timeout=TIMEOUT)
    assert asyncio.get_running_loop().time() - started < 1
    assert await codes == [1012] * 5
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(port)
    while not server.sockets.empty():
        assert await server.sockets.get_nowait().end() == End(1012, "us")
    half.close()


async def test_close_does_not_wait_longer_than_told(serve: Serve) -> None:
    server = await serve(Limits(drain_timeout=100))
    client, socket = await server.pair()
    started = asyncio.get_running_loop().time()
    await server.listener.close(1012, timeout=0.2)
    assert 0.19 <= asyncio.get_running_loop().time() - started < 2
    assert await client.close_code() == 1012
    assert await socket.end() == End(1012, "us")


async def test_connections_are_bounded_in_number(serve: Serve) -> None:
    server = await serve(max_connections=2)
    client, _ = await server.pair()
    other = await server.connect()
    await until(lambda: len(server.listener.group.connections) == 2)
    refused = await server.connect()
    assert (await refused.response())[0] == 503
    await refused.eof()
    other.close()
    await until(lambda: len(server.listener.group.connections) == 1)
    await server.pair()
    client.write(text("still here") + close_frame())
    assert await client.close_code() == 1000


async def test_abort(serve: Serve) -> None:
    server = await serve()
    client, socket = await server.pair()
    socket.abort()
    assert (await socket.end()).by == "lost"
    await client.eof()


async def test_two_listeners_cannot_have_one_port(serve: Serve) -> None:
    server = await serve()
    other = Server()
    with pytest.raises(OSError, match="address already in use"):
        await other.start(port=server.listener.port)


async def test_an_ordinary_client_over_tls(serve: Serve, certificates: Certificates) -> None:
    server = await serve(tls=certificates[0])
    async with connect(f"wss://localhost:{server.listener.port}/ws", ssl=server.tls) as ws:
        socket = await asyncio.wait_for(server.sockets.get(), TIMEOUT)
        await ws.send("hello")
        await asyncio.wait_for(socket.got_message.wait(), TIMEOUT)
        socket.send("grüß dich".encode())
        assert await ws.recv() == "grüß dich"
        assert server.requests[0].scheme == "https"
    assert await socket.end() == End(1000, "peer")
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


async def test_plain_text_to_a_tls_port_and_silence(serve: Serve, certificates: Certificates) -> None:
    server = await serve(tls=certificates[0], handshake_timeout=0.2)
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b""):
        client = await Client.connect(server.listener.port)
        client.write(sent)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(client.reader.read(), TIMEOUT)
        client.close()
    assert server.listener.group.connections == set()


async def _name(server: Server, certificate: Certificate) -> str:
    client = await Client.connect(server.listener.port, tls=certificate.client())
    subject = client.writer.get_extra_info("peercert")["subject"]
    client.close()
    return str(dict(pair[0] for pair in subject)["commonName"])


async def test_reload_tls(serve: Serve, certificates: Certificates, tmp_path: Path) -> None:
    first, second = certificates
    server = await serve(tls=first)
    old, old_socket = await server.pair()
    assert await _name(server, first) == "first"
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for pair in ((str(bad), first.files[1]), (second.files[0], first.files[1]), ("/nowhere", first.files[1])):
        with pytest.raises((ssl.SSLError, FileNotFoundError)):
            server.listener.reload_tls(*pair)
        assert await _name(server, first) == "first"
    server.listener.reload_tls(*second.files)
    assert await _name(server, second) == "second"
    with pytest.raises(ssl.SSLCertVerificationError):
        await _name(server, first)
    old.write(text("still here"))
    await asyncio.wait_for(old_socket.got_message.wait(), TIMEOUT)


def test_an_encrypted_key_asks_nobody(certificates: Certificates, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(Path(certificates[0].files[1]).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError):
        tls_context(certificates[0].files[0], str(locked))


async def test_connections_leave_no_cycles_to_the_garbage_collector(serve: Serve) -> None:
    server = await serve()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for sent in (close_frame(), frame(3), text(b"\xff")):
            client, socket = await server.pair()
            client.write(text("x") + sent)
            await socket.end()
            client.close()
        refused = await server.connect()
        refused.write(b"GET /ws HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await refused.response())[0] == 426
        refused.close()
        await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)
        del socket
        server.requests.clear()
        gc.collect()
        ours = [type(held).__name__ for held in gc.garbage if type(held).__module__.startswith("rtcbridge")]
        assert ours == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
