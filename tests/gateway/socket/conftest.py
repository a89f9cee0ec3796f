from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.socket.tools import Server
from rtcbridge.gateway.listener import tls_context


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test of this folder runs on both event loops: their transports differ."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ImportError:
        return factories
    return {**factories, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Starts servers: `await serve(limits, app=…, **listener options)`."""
    servers: list[Server] = []

    async def start(*args: Any, app: Any = None, tls: Certificate | None = None, **options: Any) -> Server:
        server = Server(*args, **options)
        servers.append(server)
        await server.start(app, tls_context(*tls.files) if tls else None)
        server.tls = tls.client() if tls else None
        return server

    yield start
    for server in servers:
        await server.stop()


class Certificate:
    """A self-signed certificate for localhost and its key, in files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._files = folder / f"{name}.pem", folder / f"{name}.key"
        self._files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.files = str(self._files[0]), str(self._files[1])

    def client(self) -> ssl.SSLContext:
        """A client's context that believes this certificate only."""
        return ssl.create_default_context(cafile=self.files[0])


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return Certificate(folder, "first"), Certificate(folder, "second")
