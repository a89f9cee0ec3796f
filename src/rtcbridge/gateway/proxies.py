"""Who the client is when a proxy stands in front: `Forwarded` (RFC 7239) and `X-Forwarded-For`/`-Proto`.

Anyone can send these headers, so they are believed only from proxies that were named, and only up to the
right-most hop that is not one of those: what stands left of it was written by the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from starlette.datastructures import Headers

_Address = IPv4Address | IPv6Address

_PROXY_HEADERS: Final = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR: Final = re.compile(rf'\s*({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")\s*')
_QUOTED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from.

    Attributes:
        client: Address and port; the port is 0 where a proxy did not tell it.
        scheme: "http" or "https", as the client used it.
        proxied: Whether any proxy seems to stand between, trusted or not. What is meant for this machine
            alone must be refused then: a proxy on this machine makes everyone look local.
    """

    client: tuple[str, int]
    scheme: str
    proxied: bool


class TrustedProxies:
    """The proxies whose word about the client is believed.

    Args:
        networks: Addresses or CIDR networks.

    Raises:
        ValueError: One of them is neither; the text names it.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]

    def origin(self, peer: tuple[str, int], scheme: str, headers: Headers) -> Origin:
        """Find the client behind `peer`, the other end of the TCP connection, which uses `scheme`."""
        if _PROXY_HEADERS.isdisjoint([name for name, _ in headers.raw]):
            return Origin(peer, scheme, proxied=False)
        address = _address(peer[0])
        if address is None or not self._trusts(address):
            return Origin(peer, scheme, proxied=True)
        forwarded = headers.getlist("forwarded")
        listed = headers.getlist("x-forwarded-for")
        protocols = ",".join(headers.getlist("x-forwarded-proto")).split(",")
        by_list = self._walk(peer, scheme, [(hop, protocols[-1]) for hop in ",".join(listed).split(",")])
        if not forwarded:
            return by_list
        by_forwarded = self._walk(peer, scheme, _parse_forwarded(",".join(forwarded)))
        # A proxy writes one of the two and may pass on the client's other: unless they agree, neither is safe.
        if listed and by_list.client[0] != by_forwarded.client[0]:
            return Origin(peer, scheme, proxied=True)
        return by_forwarded

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _walk(self, peer: tuple[str, int], scheme: str, hops: list[tuple[str, str]]) -> Origin:
        client = peer
        for node, protocol in reversed(hops):
            hop = _parse_node(node)
            if hop is None:  # "unknown", a made-up name, or nonsense: nothing behind it can be checked
                break
            client = (str(hop[0]), hop[1])
            if protocol.strip().lower() in {"http", "https"}:
                scheme = protocol.strip().lower()
            if not self._trusts(hop[0]):
                break
        return Origin(client, scheme, proxied=True)


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_node(text: str) -> tuple[_Address, int] | None:
    """Address and port of `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:5`."""
    text = text.strip()
    port = ""
    if text.startswith("["):
        text, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    address = _address(text)
    if address is None:
        return None
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return address, number if number < 65536 else 0


def _parse_forwarded(text: str) -> list[tuple[str, str]]:
    """The `for` and `proto` of every element; a malformed element ends the list to its left."""
    hops: list[tuple[str, str]] = []
    position = 0
    pairs: dict[str, str] = {}
    while position <= len(text):
        match = _PAIR.match(text, position)
        if match:
            value = match[2]
            pairs[match[1].lower()] = _QUOTED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
            position = match.end()
        separator = text[position : position + 1]
        if separator not in {"", ",", ";"}:
            hops.clear()
            pairs = {}
            comma = text.find(",", position)
            if comma < 0:
                return [("", "")]
            position = comma
            separator = ","
        if separator != ";":
            hops.append((pairs.get("for", ""), pairs.get("proto", "")))
            pairs = {}
        position += 1
    return hops
