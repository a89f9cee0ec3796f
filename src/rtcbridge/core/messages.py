"""Every message of the wire, decoded from and encoded to JSON; both dialects of the client API.

What is only relayed (an SDP, a candidate) stays the JSON text that its sender wrote: it is checked here and
then spliced between an envelope of ours, so that no field beside it passes and nothing inside it changes.
"""

from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType, ValidationError
from msgspec.json import Decoder, Encoder

from rtcbridge.core.errors import ProtocolError

Frame: TypeAlias = bytes | bytearray | memoryview | str

_encoder = Encoder()
SESSION_ID_LENGTH = 32  # characters of the ids that the bridge gives
_MAX_TEXT = 200  # characters of a peer's own words that an error repeats at most
_UNDECODABLE = (DecodeError, ValueError, RecursionError)  # a ValueError: text that is not UTF-8


class Dialect(Enum):
    """The two spellings of offer, answer and candidate; a connection speaks the first that it used."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and these are looked up for each message

    FLAT = "flat"
    PAYLOAD = "payload"


class Status(StrEnum):
    """What `node_status` says."""

    PENDING = "pending"
    FULL = "full"
    WAITING = "waiting"


# --- from a client ---


class CredentialPayload(Struct, frozen=True):
    """The inside of `CREDENTIAL`."""

    credential: str


class Credential(Struct, frozen=True, tag="CREDENTIAL", tag_field="type"):
    """First message of a client: its key."""

    payload: CredentialPayload


class SessionStart(Struct, frozen=True, tag="session_start", tag_field="type"):
    """The client is about to start a session: the demand signal."""


class Offer(Struct, frozen=True):
    """A client's WebRTC offer. `sdp` is the JSON text of a non-empty string."""

    sdp: bytes
    dialect: Dialect = Dialect.FLAT


class Candidate(Struct, frozen=True):
    """A trickled ICE candidate. `candidate` is the JSON text of an RTCIceCandidateInit, or of null."""

    candidate: bytes
    dialect: Dialect = Dialect.FLAT


class _Description(Struct, frozen=True):
    sdp: Raw
    type: str = "offer"


class _OfferWire(Struct, frozen=True, tag="offer", tag_field="type"):
    sdp: Raw | UnsetType = UNSET
    payload: _Description | UnsetType = UNSET


class _CandidateWire(Struct, frozen=True, tag="candidate", tag_field="type"):
    candidate: Raw


class _IceCandidateWire(Struct, frozen=True, tag="ice_candidate", tag_field="type"):
    payload: Raw


class _CandidateInit(Struct, frozen=True):
    """RTCIceCandidateInit, W3C WebRTC 1.0 section 4.8.1; other fields pass unchecked."""

    candidate: str | None
    sdpMid: str | None = None  # noqa: N815 — the W3C name
    sdpMLineIndex: Annotated[int, Meta(ge=0, le=65535)] | None = None  # noqa: N815


FromClient: TypeAlias = Credential | SessionStart | Offer | Candidate

_client = Decoder(Credential | SessionStart | _OfferWire | _CandidateWire | _IceCandidateWire)
_credential = Decoder(Credential)
_text = Decoder(str)
_candidate_init = Decoder(_CandidateInit | None)
_START = SessionStart()
_SESSION_START = _encoder.encode(_START)
_CLIENT_CANDIDATE = b'{"type":"candidate","candidate":'
_CLIENT_CANDIDATE_AT = len(_CLIENT_CANDIDATE)
_NODE_CANDIDATE = b'{"type":"candidate","session":"'
_NODE_CANDIDATE_ON = b'","candidate":'
_SESSION_AT = len(_NODE_CANDIDATE)
_SESSION_END = _SESSION_AT + SESSION_ID_LENGTH
_NODE_TEXT_AT = _SESSION_END + len(_NODE_CANDIDATE_ON)


def decode_credential(frame: Frame) -> str:
    """Return the credential of a client's first frame. Raises ProtocolError for anything else."""
    try:
        return _credential.decode(frame).payload.credential
    except _UNDECODABLE:
        raise ProtocolError("expected CREDENTIAL") from None


def decode_client(frame: Frame) -> FromClient:
    """Parse one frame of `/client`. Raises ProtocolError with the text that the client is sent."""
    if frame == _SESSION_START:  # as nearly all write it
        return _START
    message = _decode(_client, frame)
    if type(message) is _CandidateWire:
        return Candidate(_checked_candidate(message.candidate))
    if type(message) is _OfferWire:
        if message.sdp is not UNSET:
            return Offer(_checked_sdp(message.sdp))
        if message.payload is UNSET:
            raise ProtocolError("Bad message: Object missing required field `sdp`")
        if message.payload.type != "offer":
            raise ProtocolError("Bad message: Expected `offer` - at `$.payload.type`")
        return Offer(_checked_sdp(message.payload.sdp, "$.payload.sdp"), Dialect.PAYLOAD)
    if type(message) is _IceCandidateWire:
        return Candidate(_checked_candidate(message.payload, "$.payload"), Dialect.PAYLOAD)
    assert isinstance(message, Credential | SessionStart)
    return message


def client_candidate_text(frame: bytes) -> bytes | None:
    """Return the JSON text of the candidate in a client's frame: the short way of what is only relayed.

    Most candidates are written in exactly the documented form. If what stands between its beginning and its last
    brace is one JSON value, then there is no other key, and none twice. None for everything else, and for what is
    wrong: `decode_client` sees to that. The frame is UTF-8.
    """
    if not frame.startswith(_CLIENT_CANDIDATE) or not frame.endswith(b"}"):
        return None
    text = frame[_CLIENT_CANDIDATE_AT:-1]
    try:
        _candidate_init.decode(text)
    except _UNDECODABLE:
        return None
    return text


# --- from a node ---

Identifier = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@-]+\Z")]


class RegisterPayload(Struct, frozen=True, omit_defaults=True):
    """The inside of `REGISTER`. `sessions` are the ids still alive after a reconnect."""

    credential: str
    node: Identifier
    pool: str
    capacity: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    sessions: Annotated[list[str], Meta(max_length=100_000)] = []
    labels: dict[str, Any] = {}


class Register(Struct, frozen=True, tag="REGISTER", tag_field="type"):
    """First message of a node."""

    payload: RegisterPayload


class NodeAnswer(Struct, frozen=True, tag="answer", tag_field="type"):
    """A node's WebRTC answer. From the wire, `sdp` is the JSON text of a non-empty string."""

    session: str
    sdp: Raw


class NodeCandidate(Struct, frozen=True, tag="candidate", tag_field="type"):
    """A node's candidate. From the wire, `candidate` is the JSON text of an RTCIceCandidateInit or null."""

    session: str
    candidate: Raw


class SessionState(Struct, frozen=True, tag="session_state", tag_field="type"):
    """The state of a session's peer connection, as the node sees it."""

    session: str
    state: Literal["connected", "disconnected", "failed", "closed"]


class NodeError(Struct, frozen=True, tag="error", tag_field="type"):
    """The node cannot serve this session."""

    session: str
    message: str


class Heartbeat(Struct, frozen=True, tag="heartbeat", tag_field="type", omit_defaults=True):
    """A sign of life; `connected` are the sessions whose media is up, `load` is from 0 to 1."""

    connected: Annotated[list[str], Meta(max_length=100_000)] | None = None
    load: Annotated[float, Meta(ge=0, le=1)] | None = None
    stats: dict[str, Any] | None = None


FromNode: TypeAlias = NodeAnswer | NodeCandidate | SessionState | NodeError | Heartbeat

_register = Decoder(Register)
_node: Decoder[Register | FromNode] = Decoder(
    Register | NodeAnswer | NodeCandidate | SessionState | NodeError | Heartbeat
)


def decode_register(frame: Frame) -> RegisterPayload:
    """Return what a node's first frame says. Raises ProtocolError for anything else."""
    try:
        return _register.decode(frame).payload
    except _UNDECODABLE:
        raise ProtocolError("expected REGISTER") from None


def decode_node(frame: Frame) -> FromNode:
    """Parse one frame of `/node` behind its REGISTER. Raises ProtocolError that says what is wrong."""
    message = _decode(_node, frame)
    if type(message) is NodeCandidate:
        _checked_candidate(message.candidate)
    elif type(message) is NodeAnswer:
        _checked_sdp(message.sdp)
    elif type(message) is Register:
        raise ProtocolError("REGISTER may only be the first message")
    else:
        assert isinstance(message, SessionState | NodeError | Heartbeat)
    return message


def node_candidate_text(frame: bytes) -> tuple[str, bytes] | None:
    """Return the session of a node's candidate and its JSON text: the short way, see `client_candidate_text`."""
    if not frame.startswith(_NODE_CANDIDATE) or frame[_SESSION_END:_NODE_TEXT_AT] != _NODE_CANDIDATE_ON:
        return None
    text = frame[_NODE_TEXT_AT:-1]
    try:
        _candidate_init.decode(text)
        session = frame[_SESSION_AT:_SESSION_END].decode()
    except _UNDECODABLE:
        return None
    return (session, text) if frame.endswith(b"}") else None


# --- to a node, as the agent reads it ---


class Registered(Struct, frozen=True, tag="registered", tag_field="type"):
    """The bridge accepted this node. `heartbeat` is in seconds."""

    node: str
    epoch: int
    heartbeat: float


class IceServer(Struct, frozen=True, omit_defaults=True):
    """RTCIceServer, W3C WebRTC 1.0 section 4.2.2."""

    urls: list[str] | str
    username: str = ""
    credential: str = ""


class ToNodeOffer(Struct, frozen=True, tag="offer", tag_field="type", omit_defaults=True):
    """Open this session, or renegotiate it."""

    session: str
    sdp: str
    ice_servers: list[IceServer] = []
    params: dict[str, Any] = {}


class ToNodeCandidate(Struct, frozen=True, tag="candidate", tag_field="type"):
    """A client's candidate; null, or an empty candidate string, is the end of candidates."""

    session: str
    candidate: dict[str, Any] | None


class SessionEnd(Struct, frozen=True, tag="session_end", tag_field="type", omit_defaults=True):
    """Close the peer connection and free the slot."""

    session: str
    reason: str = ""


class Drain(Struct, frozen=True, tag="drain", tag_field="type"):
    """Take no new session; close when the last one ends."""


FromBridge: TypeAlias = Registered | ToNodeOffer | ToNodeCandidate | SessionEnd | Drain

_bridge: Decoder[FromBridge] = Decoder(Registered | ToNodeOffer | ToNodeCandidate | SessionEnd | Drain)


def decode_from_bridge(frame: Frame) -> FromBridge:
    """Parse one frame that the bridge sent to a node. Raises ProtocolError that says what is wrong."""
    return _decode(_bridge, frame)


def raw(value: object) -> Raw:
    """The JSON text of a value, for the fields that hold JSON text (an SDP, a candidate)."""
    return Raw(_encoder.encode(value))


# --- what the bridge writes ---

AUTH_SUCCESS = b'{"type":"auth_success"}'
SERVER_PROVISIONING = b'{"type":"server_provisioning"}'
DRAIN = b'{"type":"drain"}'
NODE_STATUS = {status: b'{"type":"node_status","status":"%s"}' % status.value.encode() for status in Status}

CANDIDATE_PREFIX = {
    Dialect.FLAT: b'{"type":"candidate","candidate":',
    Dialect.PAYLOAD: b'{"type":"ice_candidate","payload":',
}


def encode(message: Struct) -> bytes:
    """The JSON text of any message struct of this module."""
    return _encoder.encode(message)


def client_error(text: str) -> bytes:
    """`{"type":"error","message":text}`."""
    return b'{"type":"error","message":%s}' % _encoder.encode(text)


def client_answer(sdp: bytes | Raw, dialect: Dialect) -> bytes:
    """A node's answer, in the dialect that the client speaks. `sdp` is JSON text."""
    if dialect is Dialect.FLAT:
        return b'{"type":"answer","sdp":%b}' % bytes(sdp)
    return b'{"type":"answer","payload":{"type":"answer","sdp":%b}}' % bytes(sdp)


def client_candidate(candidate: bytes | Raw, dialect: Dialect) -> bytes:
    """A node's candidate, in the dialect that the client speaks. `candidate` is JSON text."""
    return b"%b%b}" % (CANDIDATE_PREFIX[dialect], bytes(candidate))


def node_offer(session: str, sdp: bytes, ice_servers: bytes = b"") -> bytes:
    """A client's offer for the node that holds the session. `sdp` and `ice_servers` are JSON text."""
    extra = b',"ice_servers":%b' % ice_servers if ice_servers else b""
    return b'{"type":"offer","session":"%b","sdp":%b%b}' % (session.encode(), sdp, extra)


def node_candidate_prefix(session: str) -> bytes:
    """What stands before the JSON text of a candidate that is relayed to a node; `}` stands behind it."""
    return b'{"type":"candidate","session":"%b","candidate":' % session.encode()


# --- checks ---

_T = TypeVar("_T")


def _decode(decoder: Decoder[_T], frame: Frame, path: str = "$") -> _T:
    """Decode a frame, or the part of one that stands at `path`."""
    try:
        return decoder.decode(frame)
    except ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        at = path + where.removesuffix("`")
        text = what if at == "$" else f"{what} - at `{at}`"
        raise ProtocolError(f"Bad message: {text[:_MAX_TEXT]}") from None
    except (DecodeError, ValueError) as error:
        raise ProtocolError(f"Bad JSON: {str(error)[:_MAX_TEXT]}") from None
    except RecursionError:
        raise ProtocolError("Bad JSON: nested too deeply") from None


def _checked_sdp(sdp: Raw, path: str = "$.sdp") -> bytes:
    text = bytes(sdp)
    # That it is JSON has been seen with the frame around it. In ASCII it is a string then if it begins as one.
    if not (text.isascii() and text.startswith(b'"') and len(text) > 2) and not _decode(_text, sdp, path):
        raise ProtocolError(f"Bad message: Expected a non-empty string - at `{path}`")
    return text


def _checked_candidate(candidate: Raw, path: str = "$.candidate") -> bytes:
    _decode(_candidate_init, candidate, path)
    text = bytes(candidate)
    if not text.isascii():  # fields that the decoder passes over may be no UTF-8
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"Bad JSON: {error}") from None
    return text
