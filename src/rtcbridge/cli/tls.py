"""Whom a command that dials a bridge trusts."""

from __future__ import annotations

import ipaddress
import ssl
from urllib.parse import urlsplit

from rtcbridge.cli import UsageError


def client_tls(url: str, ca: str, insecure: bool) -> ssl.SSLContext | None:
    """What to trust at this address, by the options --ca and --insecure; None for ws://. Raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme == "ws":
        if ca or insecure:
            raise UsageError("--ca and --insecure are for wss:// only")
        return None
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise UsageError(f"--ca: {ca} cannot be read: {error.strerror or 'no certificate in it'}") from None
    if insecure:
        if not _is_loopback(parts.hostname or ""):
            raise UsageError("--insecure: only for a bridge on this machine; use --ca for another")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
