"""The control channel: every message, right and wrong, against a channel that records."""

import gc
import json
from typing import Any

import pytest

from rtcbridge import Float, Params, model
from rtcbridge.node import control as module
from rtcbridge.node.control import Control
from rtcbridge.node.model import spec_of
from rtcbridge.node.params import defaults


@model(params={"strength": Float(0.5, min=0, max=1)})
def blur(frame: Any) -> Any:
    return frame


class Channel:
    label = "control"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.buffered_amount = 0

    def send(self, data: str) -> None:
        self.sent.append(json.loads(data))

    def take(self) -> dict[str, Any]:
        return self.sent.pop(0)


class Bench:
    def __init__(self) -> None:
        spec = spec_of(blur)
        assert spec is not None
        self.values: Params = defaults(spec.params)
        self.control = Control(spec, lambda: self.values, lambda values: setattr(self, "values", values))
        self.channel = Channel()

    def open(self) -> "Bench":
        self.control.open(self.channel)
        self.channel.sent.clear()
        return self

    def ask(self, message: Any) -> dict[str, Any]:
        data = message if isinstance(message, str | bytes) else json.dumps(message)
        self.control.receive(self.channel, data)
        (reply,) = self.channel.sent
        self.channel.sent.clear()
        return reply


def test_the_model_is_declared_when_the_channel_opens() -> None:
    bench = Bench()
    bench.control.open(bench.channel)
    assert bench.channel.take() == {
        "type": "model",
        "name": "blur",
        "title": "Blur",
        "params": [{"name": "strength", "kind": "float", "title": "Strength", "default": 0.5, "min": 0, "max": 1}],
        "values": {"strength": 0.5},
    }  # fmt: skip


def test_updates_are_acknowledged_by_id_with_all_values() -> None:
    bench = Bench().open()
    reply = bench.ask({"type": "update", "id": 7, "params": {"strength": 0.6}})
    assert reply == {"type": "updated", "id": 7, "values": {"strength": 0.6}}
    assert bench.values.strength == 0.6
    assert bench.ask({"type": "update", "params": {}}) == {"type": "updated", "values": {"strength": 0.6}}
    assert bench.ask({"type": "ping", "id": "x"}) == {"type": "pong", "id": "x"}


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"type": "update", "id": 7, "params": {"strength": 2}},
         {"id": 7, "message": "strength: expected a number from 0 to 1"}),
        ({"type": "update", "id": 7}, {"id": 7, "message": "params: expected an object"}),
        ({"type": "update", "id": 8, "params": {"speed": 2}},
         {"id": 8, "message": "speed: the model has no such parameter"}),
        ({"type": "nonsense", "id": 9}, {"id": 9, "message": "type: expected update or ping, not 'nonsense'"}),
        ({}, {"message": "type: expected update or ping, not 'None'"}),
        ({"type": "ping", "id": {}}, {"message": "id: expected a number or a short text"}),
        ({"type": "ping", "id": True}, {"message": "id: expected a number or a short text"}),
        ({"type": "ping", "id": "x" * 101}, {"message": "id: expected a number or a short text"}),
        ({"type": "ping", "id": 10**30}, {"message": "id: expected a number or a short text"}),
        ([], {"message": "the message is not an object"}),
        ("{", {"message": "the message is not JSON"}),
        ("", {"message": "the message is not JSON"}),
        (b"\xff\x00", {"message": "the message is not JSON"}),
        ("[" * 5000, {"message": "the message is not JSON"}),
        ('"\ud800"', {"message": "the message is not JSON"}),
        (" " * 16385, {"message": "the message is over 16384 bytes"}),
        ("é" * 8193, {"message": "the message is over 16384 bytes"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_changes_nothing(message: Any, reply: dict[str, Any]) -> None:
    gc.collect()  # what would be collected in the depth of a recursion has no room to end in
    bench = Bench().open()
    assert bench.ask(message) == {"type": "error"} | reply
    assert bench.values.strength == 0.5
    assert bench.ask({"type": "ping"}) == {"type": "pong"}


def test_errors_of_the_model_are_told_once_each_and_not_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bench = Bench().open()
    bench.control.model_failed("a")
    bench.control.model_failed("a")
    bench.control.model_failed("b")  # too soon
    assert bench.channel.sent == [{"type": "error", "message": "a"}]
    now[0] += 1.0
    bench.control.model_failed("a")
    bench.control.model_failed("b")
    assert bench.channel.sent[1:] == [{"type": "error", "message": "b"}]
    for n in range(100):
        now[0] += 1.0
        bench.control.model_failed(f"error {n}")
    assert len(bench.channel.sent) == 50


def test_stats_are_rounded() -> None:
    bench = Bench().open()
    bench.control.stats(29.97, 24.123, 38.2449, 12)
    assert bench.channel.take() == {
        "type": "stats", "fps_in": 30.0, "fps_out": 24.1, "model_ms": 38.2, "dropped": 12,
    }  # fmt: skip


def test_a_client_that_does_not_read_is_sent_no_more() -> None:
    bench = Bench().open()
    bench.channel.buffered_amount = 10**6
    bench.control.receive(bench.channel, '{"type":"ping"}')
    assert bench.channel.sent == []


def test_only_the_newest_channel_counts() -> None:
    bench = Bench().open()
    newer = Channel()
    bench.control.open(newer)
    bench.control.receive(bench.channel, '{"type":"ping"}')
    bench.control.closed(bench.channel)
    assert bench.channel.sent == []
    bench.control.receive(newer, '{"type":"ping"}')
    assert newer.sent[-1] == {"type": "pong"}
    bench.control.closed(newer)
    bench.control.stats(1, 1, 1, 0)
    assert newer.sent[-1] == {"type": "pong"}
