"""Whatever arrives: a message, or ProtocolError with a text that can be sent; and nothing extra is relayed."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtcbridge.core import messages
from rtcbridge.core.errors import ProtocolError
from rtcbridge.core.messages import Candidate, Credential, Dialect, NodeAnswer, NodeCandidate, Offer, SessionStart

DECODERS: list[Callable[[messages.Frame], Any]] = [
    messages.decode_client,
    messages.decode_node,
    messages.decode_credential,
    messages.decode_register,
    messages.decode_from_bridge,
]
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

VALID = [
    b'{"type":"CREDENTIAL","payload":{"credential":"sk_TEST01_my0Secret1Token2Value3"}}',
    b'{"type":"session_start"}',
    b'{"type":"offer","sdp":"v=0\\r\\n"}',
    b'{"type":"offer","payload":{"type":"offer","sdp":"v=0"}}',
    b'{"type":"candidate","candidate":{"sdpMid":"0","sdpMLineIndex":0,"candidate":"c","usernameFragment":"u"}}',
    b'{"type":"ice_candidate","payload":{"candidate":"\xc3\xa4"}}',
    b'{"type":"REGISTER","payload":{"credential":"nk_","node":"n","pool":"p","capacity":2,"sessions":["s"],"labels":{}}}',
    b'{"type":"answer","session":"s","sdp":"a"}',
    b'{"type":"candidate","session":"s","candidate":{"candidate":"c"}}',
    b'{"type":"session_state","session":"s","state":"connected"}',
    b'{"type":"error","session":"s","message":"no"}',
    b'{"type":"heartbeat","connected":["s"],"load":0.5,"stats":{"a":[1,null]}}',
    b'{"type":"offer","session":"s","sdp":"o","ice_servers":[{"urls":["stun:a"]}],"params":{"a":1}}',
]
FRAGMENTS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"\\ud800", b"\xff", b"\xc3", b"null", b"1e999", b"-",
    b"0", b"\x00", b'"type":', b'"session":"x",', b'"sdp":5,', b"\n", b" ", b"\xef\xbb\xbf",
]  # fmt: skip

_names = st.sampled_from(
    ["type", "sdp", "payload", "candidate", "session", "credential", "sdpMid", "sdpMLineIndex", "connected", "load"]
)
_types = st.sampled_from(
    ["CREDENTIAL", "session_start", "offer", "candidate", "ice_candidate", "answer", "REGISTER", "error", "heartbeat"]
)
_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _types
_json = st.recursive(_leaves, lambda inner: st.lists(inner) | st.dictionaries(_names | st.text(), inner), max_leaves=20)
_messages = st.builds(lambda type, rest: {"type": type, **rest}, _types, st.dictionaries(_names, _json, max_size=4))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A valid message with a few pieces cut out, doubled, or put in."""
    frame = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(frame)))
        end = draw(st.integers(start, min(len(frame), start + 12)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.just(frame[start:end] * 2) | st.binary(max_size=3))
        frame = frame[:start] + piece + frame[end:]
    return frame


_frames = st.binary(max_size=200) | _mutated() | (_json | _messages).map(lambda value: json.dumps(value).encode())


def _refusal(decode: Callable[[messages.Frame], Any], frame: messages.Frame) -> str | None:
    """The text of the ProtocolError that a frame gets, if it does. Any other exception fails the test."""
    try:
        decode(frame)
    except ProtocolError as error:
        return str(error)
    return None


@given(frame=_frames)
@FUZZ
def test_nothing_but_a_protocol_error_escapes(frame: bytes) -> None:
    for decode in DECODERS:
        told = _refusal(decode, frame)
        if told is not None:
            assert json.loads(messages.client_error(told))["message"] == told
        for form in (bytearray(frame), memoryview(frame)):
            assert _refusal(decode, form) == told


@given(frame=st.text(st.characters(codec=None), max_size=50))
@FUZZ
def test_nor_for_text_that_is_no_unicode(frame: str) -> None:
    for decode in DECODERS:
        assert _refusal(decode, frame) is not None or json.loads(frame)


def _envelopes(message: object) -> list[tuple[bytes, object]]:
    """What is relayed of a message, and what it should decode to."""
    match message:
        case Offer(sdp=sdp):
            return [(messages.node_offer("S", sdp), {"type": "offer", "session": "S", "sdp": json.loads(sdp)})]
        case Candidate(candidate=inner):
            whole = messages.node_candidate_prefix("S") + inner + b"}"
            return [(whole, {"type": "candidate", "session": "S", "candidate": json.loads(inner)})]
        case NodeAnswer(sdp=sdp):
            text = json.loads(bytes(sdp))
            return [
                (messages.client_answer(sdp, Dialect.FLAT), {"type": "answer", "sdp": text}),
                (
                    messages.client_answer(sdp, Dialect.PAYLOAD),
                    {"type": "answer", "payload": {"type": "answer", "sdp": text}},
                ),
            ]
        case NodeCandidate(candidate=inner):
            value = json.loads(bytes(inner))
            return [
                (messages.client_candidate(inner, Dialect.FLAT), {"type": "candidate", "candidate": value}),
                (messages.client_candidate(inner, Dialect.PAYLOAD), {"type": "ice_candidate", "payload": value}),
            ]
    return []


@given(frame=_mutated() | _messages.map(lambda value: json.dumps(value).encode()))
@settings(FUZZ, max_examples=300)
def test_what_is_relayed_is_the_inner_json_and_nothing_beside_it(frame: bytes) -> None:
    for decode in (messages.decode_client, messages.decode_node):
        try:
            message = decode(frame)
        except ProtocolError:
            continue
        for relayed, expected in _envelopes(message):
            assert isinstance(message, Offer | Candidate | NodeAnswer | NodeCandidate)
            assert json.loads(relayed.decode()) == expected
            inner = bytes(message.sdp if isinstance(message, Offer | NodeAnswer) else message.candidate)
            assert inner in frame  # not a byte of it was written anew
            assert inner in relayed


_sdp = st.text(st.characters(codec="utf-8"), min_size=1)
_init = st.fixed_dictionaries(
    {"candidate": st.none() | _sdp | st.just("")},
    optional={
        "sdpMid": st.none() | _sdp,
        "sdpMLineIndex": st.none() | st.integers(0, 65_535),
        "usernameFragment": st.none() | _sdp,
        "x": st.recursive(st.integers(-9, 9) | _sdp, st.lists, max_leaves=4),
    },
)


@given(sdp=_sdp, init=st.none() | _init, ascii=st.booleans())
@FUZZ
def test_a_whole_trip_changes_nothing(sdp: str, init: dict[str, Any] | None, ascii: bool) -> None:
    """Client to node and back, in both dialects, for any text and any candidate."""

    def frame(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=ascii).encode()

    for offer in ({"type": "offer", "sdp": sdp}, {"type": "offer", "payload": {"type": "offer", "sdp": sdp}}):
        decoded = messages.decode_client(frame(offer))
        assert isinstance(decoded, Offer)
        at_node = messages.decode_from_bridge(messages.node_offer("S", decoded.sdp))
        assert at_node == messages.ToNodeOffer("S", sdp)
    for candidate in ({"type": "candidate", "candidate": init}, {"type": "ice_candidate", "payload": init}):
        one = messages.decode_client(frame(candidate))
        assert isinstance(one, Candidate)
        relayed = messages.node_candidate_prefix("S") + one.candidate + b"}"
        assert messages.decode_from_bridge(relayed) == messages.ToNodeCandidate("S", init)
    answer = messages.decode_node(frame({"type": "answer", "session": "S", "sdp": sdp, "x": 1}))
    assert isinstance(answer, NodeAnswer)
    assert json.loads(messages.client_answer(answer.sdp, Dialect.FLAT)) == {"type": "answer", "sdp": sdp}


SESSION = "0123456789abcdef" * 2
_init_text = _init.map(json.dumps) | st.just("null") | st.text(max_size=8) | _json.map(json.dumps)
_spaces = st.sampled_from(["", " ", "\n"])
_tails = st.sampled_from(["}", "} ", ',"x":1}', ',"session":"mine"}', ',"candidate":null}', "", "}}", '},"a":{}}'])


@given(inner=_init_text, before=_spaces, after=_spaces, tail=_tails)
@settings(FUZZ, max_examples=400)
def test_the_short_way_of_a_candidate_takes_nothing_that_the_long_way_would_not(
    inner: str, before: str, after: str, tail: str
) -> None:
    frame = f'{{"type":"candidate","candidate":{before}{inner}{after}{tail}'.encode()
    text = messages.client_candidate_text(frame)
    if text is not None:
        assert messages.decode_client(frame) == Candidate(text.strip())
        assert json.loads(frame).keys() == {"type", "candidate"}
        relayed = messages.node_candidate_prefix("S") + text + b"}"
        assert json.loads(relayed) == {"type": "candidate", "session": "S", "candidate": json.loads(text)}

    frame = f'{{"type":"candidate","session":"{SESSION}","candidate":{before}{inner}{after}{tail}'.encode()
    short = messages.node_candidate_text(frame)
    if short is not None:
        session, text = short
        message = messages.decode_node(frame)
        assert isinstance(message, NodeCandidate)
        assert (session, text.strip()) == (message.session, bytes(message.candidate))
        assert json.loads(frame).keys() == {"type", "session", "candidate"}


def test_the_short_way_is_taken() -> None:
    inner = b'{"candidate":"c","x":[1,{}]}'
    assert messages.client_candidate_text(b'{"type":"candidate","candidate":%b}' % inner) == inner
    frame = b'{"type":"candidate","session":"%b","candidate":%b}' % (SESSION.encode(), inner)
    assert messages.node_candidate_text(frame) == (SESSION, inner)
    assert messages.client_candidate_text(b'{"type":"candidate","candidate":%b,"x":1}' % inner) is None
    assert messages.node_candidate_text(frame[:-1] + b',"x":1}') is None


@given(frame=_frames)
@FUZZ
def test_the_short_way_never_raises(frame: bytes) -> None:
    messages.client_candidate_text(frame)
    messages.node_candidate_text(frame)


@given(credential=st.text(st.characters(codec="utf-8")))
@FUZZ
def test_credentials_come_through(credential: str) -> None:
    frame = json.dumps({"type": "CREDENTIAL", "payload": {"credential": credential}})
    assert messages.decode_credential(frame) == credential
    assert messages.decode_client(frame) == Credential(messages.CredentialPayload(credential))
    assert messages.decode_client('{"type":"session_start"}') == SessionStart()
