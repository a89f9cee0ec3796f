"""`engine.url`: what is taken, and what is said of the rest."""

import pytest

from rtcbridge.drivers.engine import MemoryEngine, open_engine, parse_engine_url
from rtcbridge.ports_engine import EngineError


@pytest.mark.parametrize(
    ("text", "shown", "hosts"),
    [
        ("memory://", "memory://", ()),
        ("redis://valkey", "redis://valkey:6379/0", (("valkey", 6379),)),
        ("redis://user:p%40ss@valkey:7000/3", "redis://valkey:7000/3", (("valkey", 7000),)),
        ("rediss://:secret@[::1]:7000", "rediss://[::1]:7000/0", (("::1", 7000),)),
        (
            "redis+sentinel://u:p@a:1,b/main/2",
            "redis+sentinel://a:1,b:26379/main/2",
            (("a", 1), ("b", 26379)),
        ),
    ],
)
def test_addresses(text, shown, hosts):
    url = parse_engine_url(text)
    assert (str(url), url.hosts) == (shown, hosts)
    assert "p%40ss" not in repr(url)


def test_user_and_password_are_decoded():
    url = parse_engine_url("redis://us%3Aer:p%40ss@valkey")
    assert (url.username, url.password) == ("us:er", "p@ss")
    assert "p@ss" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "memory",
        "redis:",
        "redis://",
        "redis://:secret@",
        "redis://a:secret@host:port",
        "redis://secret@a,b",
        "redis://host/secret",
        "redis://host/-1",
        "redis://host/0/secret",
        "redis://host?password=secret",
        "redis+sentinel://secret@a,b",
        "nats://secret@host",
        "redis://host:99999",
    ],
)
def test_bad_addresses_get_one_line_without_what_may_be_a_password(text):
    with pytest.raises(EngineError, match=r"^engine.url: expected memory://") as caught:
        parse_engine_url(text)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_memory_needs_no_package():
    assert isinstance(open_engine("memory://"), MemoryEngine)
