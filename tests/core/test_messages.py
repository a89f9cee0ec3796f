"""Every message of the wire, both dialects, and every kind of bad input that protocol part 2 names."""

import json
from typing import Any

import msgspec
import pytest

from rtcbridge.core import messages
from rtcbridge.core.errors import ProtocolError
from rtcbridge.core.messages import (
    Candidate,
    Credential,
    CredentialPayload,
    Dialect,
    Drain,
    Heartbeat,
    IceServer,
    NodeAnswer,
    NodeCandidate,
    NodeError,
    Offer,
    Register,
    Registered,
    RegisterPayload,
    SessionEnd,
    SessionStart,
    SessionState,
    Status,
    ToNodeCandidate,
    ToNodeOffer,
    decode_client,
    decode_credential,
    decode_from_bridge,
    decode_node,
    decode_register,
    encode,
    raw,
)

INIT = '{"sdpMid":"0","sdpMLineIndex":0,"candidate":"c"}'

# --- from a client ---

FROM_CLIENT = [
    ('{"type":"CREDENTIAL","payload":{"credential":"sk_A"}}', Credential(CredentialPayload("sk_A"))),
    ('{"type":"session_start"}', SessionStart()),
    ('{"type":"session_start","more":[1,{}]}', SessionStart()),
    ('{"type":"offer","sdp":"v=0\\r\\n"}', Offer(b'"v=0\\r\\n"')),
    ('{"sdp":"v=0","type":"offer"}', Offer(b'"v=0"')),
    (' { "type" : "offer" , "sdp" : "v=0" } \n', Offer(b'"v=0"')),
    ('{"type":"offer","sdp":"last wins","sdp":"b"}', Offer(b'"b"')),
    ('{"type":"offer","payload":{"type":"offer","sdp":"a"}}', Offer(b'"a"', Dialect.PAYLOAD)),
    ('{"type":"offer","payload":{"sdp":"a"}}', Offer(b'"a"', Dialect.PAYLOAD)),
    (f'{{"type":"candidate","candidate":{INIT}}}', Candidate(INIT.encode())),
    (f'{{"type":"ice_candidate","payload":{INIT}}}', Candidate(INIT.encode(), Dialect.PAYLOAD)),
    ('{"type":"candidate","candidate":null}', Candidate(b"null")),
    ('{"type":"ice_candidate","payload":null}', Candidate(b"null", Dialect.PAYLOAD)),
    ('{"type":"candidate","candidate":{"candidate":null}}', Candidate(b'{"candidate":null}')),
    ('{"type":"candidate","candidate":{"candidate":""}}', Candidate(b'{"candidate":""}')),
    (
        '{"type":"candidate","candidate":{"candidate":"","sdpMid":null,"sdpMLineIndex":null}}',
        Candidate(b'{"candidate":"","sdpMid":null,"sdpMLineIndex":null}'),
    ),
    (
        '{"type":"candidate","candidate":{"candidate":"c","usernameFragment":"ä","x":{"y":[1e3]}}}',
        Candidate('{"candidate":"c","usernameFragment":"ä","x":{"y":[1e3]}}'.encode()),
    ),
]


@pytest.mark.parametrize(("frame", "message"), FROM_CLIENT)
def test_messages_of_a_client(frame: str, message: messages.FromClient) -> None:
    assert decode_client(frame.encode()) == message
    assert decode_client(frame) == message


BAD_FROM_CLIENT = [
    # broken JSON
    (b"", "Bad JSON: "),
    (b"{", "Bad JSON: "),
    (b'{"type":"session_start"', "Bad JSON: "),
    (b'{"type":"session_start"} {}', "Bad JSON: "),
    (b"{'type':'session_start'}", "Bad JSON: "),
    (b'{"type":"offer","sdp":"\xff"}', "Bad JSON: "),
    (b'{"type":"candidate","candidate":{"candidate":"c","x":"\xff"}}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"\\ud800"}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"\\ud800\\u0041"}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"\\u00"}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"\\x"}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"\n"}', "Bad JSON: "),
    (b'{"type":"offer","sdp":"v=0}', "Bad JSON: "),
    (b'{"type":"candidate","candidate":' + b"[" * 60_000, "Bad JSON: "),
    (b'{"type":"session_start","x":' + b"[" * 60_000, "Bad JSON: nested too deeply"),
    # not an object, an unknown type, none
    (b"[]", "Bad message: Expected `object`, got `array`"),
    (b'"session_start"', "Bad message: Expected `object`, got `str`"),
    (b"null", "Bad message: Expected `object`, got `null`"),
    (b"{}", "Bad message: Object missing required field `type`"),
    (b'{"type":"answer","sdp":"a"}', "Bad message: Invalid value 'answer' - at `$.type`"),
    (b'{"type":"SESSION_START"}', "Bad message: Invalid value 'SESSION_START' - at `$.type`"),
    (b'{"type":7}', "Bad message: Expected `str` - at `$.type`"),
    (b'{"type":"session_start","type":"offer","sdp":"a"}', "Bad message: Invalid value 'offer' - at `$.type`"),
    # a missing or mistyped field
    (b'{"type":"offer"}', "Bad message: Object missing required field `sdp`"),
    (b'{"type":"offer","sdp":""}', "Bad message: Expected a non-empty string - at `$.sdp`"),
    (b'{"type":"offer","sdp":null}', "Bad message: Expected `str`, got `null` - at `$.sdp`"),
    (b'{"type":"offer","sdp":{"sdp":"a"}}', "Bad message: Expected `str`, got `object` - at `$.sdp`"),
    (b'{"type":"offer","payload":"a"}', "Bad message: Expected `object`, got `str` - at `$.payload`"),
    (b'{"type":"offer","payload":{}}', "Bad message: Object missing required field `sdp` - at `$.payload`"),
    (b'{"type":"offer","payload":{"sdp":5}}', "Bad message: Expected `str`, got `int` - at `$.payload.sdp`"),
    (b'{"type":"offer","payload":{"type":"answer","sdp":"a"}}', "Bad message: Expected `offer` - at `$.payload.type`"),
    (b'{"type":"candidate"}', "Bad message: Object missing required field `candidate`"),
    (b'{"type":"candidate","candidate":"c"}', "Bad message: Expected `object | null`, got `str` - at `$.candidate`"),
    (
        b'{"type":"candidate","candidate":{"sdpMid":"0"}}',
        "Bad message: Object missing required field `candidate` - at `$.candidate`",
    ),
    (
        b'{"type":"candidate","candidate":{"candidate":5}}',
        "Bad message: Expected `str | null`, got `int` - at `$.candidate.candidate`",
    ),
    (
        b'{"type":"candidate","candidate":{"candidate":"c","sdpMid":0}}',
        "Bad message: Expected `str | null`, got `int` - at `$.candidate.sdpMid`",
    ),
    (
        b'{"type":"candidate","candidate":{"candidate":"c","sdpMLineIndex":-1}}',
        "Bad message: Expected `int` >= 0 - at `$.candidate.sdpMLineIndex`",
    ),
    (
        b'{"type":"candidate","candidate":{"candidate":"c","candidate":5}}',
        "Bad message: Expected `str | null`, got `int` - at `$.candidate.candidate`",
    ),
    (b'{"type":"ice_candidate"}', "Bad message: Object missing required field `payload`"),
    (
        b'{"type":"ice_candidate","payload":{"candidate":5}}',
        "Bad message: Expected `str | null`, got `int` - at `$.payload.candidate`",
    ),
    (b'{"type":"CREDENTIAL"}', "Bad message: Object missing required field `payload`"),
    (b'{"type":"CREDENTIAL","payload":{}}', "Bad message: Object missing required field `credential` - at `$.payload`"),
]


@pytest.mark.parametrize(("frame", "text"), BAD_FROM_CLIENT, ids=[str(frame[:60]) for frame, _ in BAD_FROM_CLIENT])
def test_bad_input_of_a_client_says_what_is_wrong(frame: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        decode_client(frame)
    told = str(raised.value)
    assert told.startswith(text) if text.endswith(": ") else told == text
    assert json.loads(messages.client_error(told)) == {"type": "error", "message": told}


def test_an_error_repeats_little_of_what_was_sent() -> None:
    with pytest.raises(ProtocolError) as raised:
        decode_client(json.dumps({"type": "x" * 50_000}))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "frame",
    [b"", b"{}", b'{"type":"session_start"}', b'{"type":"CREDENTIAL","payload":{"credential":5}}', "\ud800",
     b'{"type":"CREDENTIAL","payload":{"credential":"\xff"}}', b"[" * 60_000,
     b'{"type":"CREDENTIAL","x":' + b"[" * 60_000, b'{"type":"credential","payload":{"credential":"sk_A"}}'],
    ids=lambda frame: repr(frame[:60]),
)  # fmt: skip
def test_a_first_message_of_a_client_that_is_no_credential(frame: bytes | str) -> None:
    with pytest.raises(ProtocolError):
        decode_credential(frame)


def test_the_credential() -> None:
    assert decode_credential(b'{"type":"CREDENTIAL","payload":{"credential":"sk_A","x":1},"y":2}') == "sk_A"


# --- from a node ---

FROM_NODE = [
    ('{"type":"answer","session":"s","sdp":"a"}', NodeAnswer("s", raw("a"))),
    (f'{{"type":"candidate","session":"s","candidate":{INIT}}}', NodeCandidate("s", msgspec.Raw(INIT.encode()))),
    ('{"type":"candidate","session":"s","candidate":null}', NodeCandidate("s", msgspec.Raw(b"null"))),
    ('{"type":"session_state","session":"s","state":"connected"}', SessionState("s", "connected")),
    ('{"type":"session_state","session":"s","state":"disconnected"}', SessionState("s", "disconnected")),
    ('{"type":"session_state","session":"s","state":"failed"}', SessionState("s", "failed")),
    ('{"type":"session_state","session":"s","state":"closed"}', SessionState("s", "closed")),
    ('{"type":"error","session":"s","message":"no"}', NodeError("s", "no")),
    ('{"type":"heartbeat"}', Heartbeat()),
    ('{"type":"heartbeat","connected":[],"load":1}', Heartbeat([], 1.0)),
    ('{"type":"heartbeat","connected":["s"],"load":0.5,"stats":{"a":1}}', Heartbeat(["s"], 0.5, {"a": 1})),
]


@pytest.mark.parametrize(("frame", "message"), FROM_NODE)
def test_messages_of_a_node(frame: str, message: messages.FromNode) -> None:
    assert decode_node(frame.encode()) == message
    assert decode_node(encode(message)) == message


BAD_FROM_NODE = [
    b"", b"[]", b'{"type":"offer","session":"s","sdp":"o"}', b'{"type":"answer","sdp":"a"}',
    b'{"type":"answer","session":"s","sdp":""}', b'{"type":"answer","session":"s","sdp":5}',
    b'{"type":"answer","session":5,"sdp":"a"}', b'{"type":"candidate","session":"s"}',
    b'{"type":"candidate","session":"s","candidate":5}', b'{"type":"session_state","session":"s","state":"up"}',
    b'{"type":"error","session":"s"}', b'{"type":"heartbeat","load":2}', b'{"type":"heartbeat","load":NaN}',
    b'{"type":"heartbeat","connected":[1]}', b'{"type":"heartbeat","stats":[]}',
    b'{"type":"heartbeat","stats":{"a":1e999999}}', b'{"type":"heartbeat","stats":{"a":' + b"1" * 6000 + b"}}",
    b'{"type":"REGISTER","payload":{"credential":"nk_","node":"n","pool":"p"}}',
]  # fmt: skip


@pytest.mark.parametrize("frame", BAD_FROM_NODE, ids=lambda frame: repr(frame[:60]))
def test_bad_input_of_a_node(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_node(frame)


def register(**fields: Any) -> str:
    return json.dumps({"type": "REGISTER", "payload": {"credential": "nk_", "node": "n", "pool": "p", **fields}})


def test_register() -> None:
    assert decode_register(register()) == RegisterPayload("nk_", "n", "p")
    whole = RegisterPayload("nk_", "gpu-1.example:0@x_y", "p", 2, ["s1", "s2"], {"model": {"name": "m"}})
    assert decode_register(encode(Register(whole))) == whole


@pytest.mark.parametrize(
    "fields",
    [{"node": ""}, {"node": "a b"}, {"node": "n\n"}, {"node": "ä"}, {"node": "n" * 129}, {"node": 5}, {"capacity": 0},
     {"capacity": -1}, {"capacity": 1.5}, {"capacity": 100_001}, {"sessions": "s"}, {"sessions": [1]}, {"labels": []},
     {"credential": None}, {"pool": None}],
    ids=str,
)  # fmt: skip
def test_a_bad_register(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_register(register(**fields))


@pytest.mark.parametrize(
    "frame", [b"", b'{"type":"heartbeat"}', "\ud800", b'{"type":"REGISTER","payload":{"x":"\xff"}}']
)
def test_a_first_message_of_a_node_that_is_no_register(frame: bytes | str) -> None:
    with pytest.raises(ProtocolError):
        decode_register(frame)


# --- what the bridge writes ---

FROM_BRIDGE = [
    Registered("n", 7, 5.0),
    ToNodeOffer("s", "o"),
    ToNodeOffer("s", "o", [IceServer("stun:a"), IceServer(["turn:b"], "u", "c")], "relay", {"style": "candy"}),
    ToNodeCandidate("s", {"candidate": "c", "x": 1}),
    ToNodeCandidate("s", None),
    SessionEnd("s"),
    SessionEnd("s", "client left"),
    Drain(),
]


@pytest.mark.parametrize("message", FROM_BRIDGE, ids=repr)
def test_what_the_bridge_writes_is_what_a_node_reads(message: messages.FromBridge) -> None:
    assert decode_from_bridge(encode(message)) == message


@pytest.mark.parametrize("frame", [b"", b"{}", b'{"type":"answer","session":"s","sdp":"a"}', b'{"type":"drain"}{}'])
def test_a_node_reads_nothing_else(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_bridge(frame)


def test_to_the_client_literally() -> None:
    assert messages.AUTH_SUCCESS == b'{"type":"auth_success"}'
    assert messages.SERVER_PROVISIONING == b'{"type":"server_provisioning"}'
    assert {status: messages.NODE_STATUS[status] for status in Status} == {
        Status.PENDING: b'{"type":"node_status","status":"pending"}',
        Status.FULL: b'{"type":"node_status","status":"full"}',
        Status.WAITING: b'{"type":"node_status","status":"waiting"}',
    }
    sdp, init = raw("a"), raw({"candidate": "c"})
    assert messages.client_answer(sdp, Dialect.FLAT) == b'{"type":"answer","sdp":"a"}'
    assert messages.client_answer(sdp, Dialect.PAYLOAD) == b'{"type":"answer","payload":{"type":"answer","sdp":"a"}}'
    assert messages.client_candidate(init, Dialect.FLAT) == b'{"type":"candidate","candidate":{"candidate":"c"}}'
    assert messages.client_candidate(init, Dialect.PAYLOAD) == b'{"type":"ice_candidate","payload":{"candidate":"c"}}'
    assert messages.client_error('say "no"') == b'{"type":"error","message":"say \\"no\\""}'


def test_to_the_node_literally() -> None:
    assert messages.DRAIN == b'{"type":"drain"}'
    assert messages.node_offer("s", b'"o"') == b'{"type":"offer","session":"s","sdp":"o"}'
    offer, stun = messages.node_offer("s", b'"o"'), IceServer(["stun:s"])
    assert messages.with_ice(offer, ()) == offer
    assert messages.with_ice(offer, [stun]) == offer[:-1] + b',"ice_servers":[{"urls":["stun:s"]}]}'
    assert messages.with_ice(offer, (), "relay") == offer[:-1] + b',"ice_transport_policy":"relay"}'
    told = messages.decode_from_bridge(messages.with_ice(offer, [stun], "relay"))
    assert told == ToNodeOffer("s", "o", [stun], "relay")
    whole = messages.node_candidate_prefix("s") + b"null}"
    assert whole == b'{"type":"candidate","session":"s","candidate":null}'
    assert encode(Registered("n", 1, 5)) == b'{"type":"registered","node":"n","epoch":1,"heartbeat":5}'
