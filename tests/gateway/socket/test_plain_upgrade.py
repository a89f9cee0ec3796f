"""The short way for plain handshakes against the parser and the checks: it may give up, never disagree."""

from __future__ import annotations

import random

import httptools

from gateway.socket.tools import KEY, handshake
from rtcbridge.gateway.handshake import Refused, Request, check_upgrade, plain_upgrade
from rtcbridge.gateway.http_adapter import MAX_HEAD
from rtcbridge.gateway.proxies import Origin

LINES = [
    "Host: test", "Host: other", "Upgrade: websocket", "upgrade: WebSocket", "Upgrade: h2c, websocket",
    "Connection: Upgrade", "Connection: keep-alive, Upgrade", "Connection: keep-alive", "Connection : Upgrade",
    f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Key: AAAA",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Protocol: rtcbridge.v2, chat", "Sec-WebSocket-Protocol: ,", "Content-Length: 0",
    "Content-Length: 5", "Transfer-Encoding: chunked", "Origin: https://example.org", "X-Empty:", "X-Odd: a\x00b",
    "X-Latin: \xe9", "X-Space:   two  words  ", " folded", "X-Bare-Newline: a\nHost: b", "Novalue", "X-Tab:\ta",
]  # fmt: skip
FIRST = [
    "GET /ws HTTP/1.1", "GET /ws HTTP/1.0", "POST /ws HTTP/1.1", "GET /w%73 HTTP/1.1", "GET /ws?a=b HTTP/1.1",
    "GET  /ws HTTP/1.1", "get /ws HTTP/1.1", "GET /ws HTTP/2.0", "GET http://other/ws HTTP/1.1", "GET /ws HTTP/1.1 ",
]  # fmt: skip


class _Parsed:
    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _the_long_way(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes, tuple[str, ...], int] | None:
    parsed = _Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
        return None
    except httptools.HttpParserUpgrade as upgrade:
        size = upgrade.args[0]
    except httptools.HttpParserError:
        return None
    request = Request(
        parser.get_method().decode(),
        parser.get_http_version(),
        "/ws",
        "",
        parsed.headers,
        lambda: Origin(("", 0), "", False),
    )
    try:
        key = check_upgrade(request)
    except Refused:
        return None
    return parsed.url, parsed.headers, key, request.subprotocols, size


def test_never_accepts_what_the_checks_refuse_nor_reads_it_otherwise() -> None:
    accepted = 0
    for seed in range(20_000):
        draw = random.Random(seed)
        good = handshake(extra="Origin: https://example.org\r\n").decode().split("\r\n")[:-2]
        lines = [draw.choice(FIRST) if draw.random() < 0.2 else good[0], *good[1:]]
        for _ in range(draw.choice((0, 0, 1, 2, 3))):
            place = draw.randrange(1, len(lines) + 1)
            if draw.random() < 0.4:
                lines[place - 1 : place] = [draw.choice(LINES)] if place > 1 else [lines[0]]
            else:
                lines.insert(place, draw.choice(LINES))
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + draw.choice((b"", b"\x81\x80abcd"))
        plain = plain_upgrade(data, MAX_HEAD)
        if plain is None:
            continue
        accepted += 1
        assert (plain.path.encode(), plain.headers, plain.key, plain.subprotocols, plain.size) == _the_long_way(data), (
            data
        )
    assert accepted > 4000


def test_takes_what_browsers_write_and_leaves_the_rest() -> None:
    assert plain_upgrade(handshake() + b"rest", MAX_HEAD) is not None
    firefox = handshake().replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")
    assert plain_upgrade(firefox, MAX_HEAD) is not None
    offered = plain_upgrade(handshake(extra="Sec-WebSocket-Protocol: rtcbridge.v2, x\r\n"), MAX_HEAD)
    assert offered is not None
    assert offered.subprotocols == ("rtcbridge.v2", "x")
    assert plain_upgrade(handshake()[:-1], MAX_HEAD) is None
    assert plain_upgrade(handshake(extra=f"X-Long: {'x' * MAX_HEAD}\r\n"), MAX_HEAD) is None
