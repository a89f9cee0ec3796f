"""Every message of the wire, decoded from and encoded to JSON; both dialects of the client API.

What is only relayed (an SDP, a candidate) stays the JSON text that its sender wrote: it is checked here and
then spliced between an envelope of ours, so that no field beside it passes and nothing inside it changes.
"""

from collections.abc import Sequence
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


SdpText: TypeAlias = Annotated[Raw, Meta(extra_json_schema={"type": "string", "minLength": 1})]
CandidateText: TypeAlias = Annotated[
    Raw, Meta(extra_json_schema={"anyOf": [{"$ref": "#/$defs/CandidateInit"}, {"type": "null"}]})
]


class Description(Struct, frozen=True):
    """RTCSessionDescriptionInit, in the older dialect."""

    sdp: SdpText
    type: str = "offer"


class OfferWire(Struct, frozen=True, tag="offer", tag_field="type"):
    """An offer in one of the two dialects."""

    sdp: SdpText | UnsetType = UNSET
    payload: Description | UnsetType = UNSET


class CandidateWire(Struct, frozen=True, tag="candidate", tag_field="type"):
    """A candidate, either way."""

    candidate: CandidateText


class IceCandidateWire(Struct, frozen=True, tag="ice_candidate", tag_field="type"):
    """The same in the older dialect."""

    payload: CandidateText


class CandidateInit(Struct, frozen=True):
    """RTCIceCandidateInit, W3C WebRTC 1.0 section 4.8.1; other fields pass unchecked."""

    candidate: str | None
    sdpMid: str | None = None  # noqa: N815 — the W3C name
    sdpMLineIndex: Annotated[int, Meta(ge=0, le=65535)] | None = None  # noqa: N815


FromClient: TypeAlias = Credential | SessionStart | Offer | Candidate
ClientWire: TypeAlias = Credential | SessionStart | OfferWire | CandidateWire | IceCandidateWire

_client: Decoder[ClientWire] = Decoder(ClientWire)
_credential = Decoder(Credential)
_text = Decoder(str)
_candidate_init = Decoder(CandidateInit | None)
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
    return checked(decode_as(_client, frame))


def checked(message: ClientWire) -> FromClient:
    """Return a client's message if what is only relayed in it is right. Raises ProtocolError."""
    if type(message) is CandidateWire:
        return Candidate(_checked_candidate(message.candidate))
    if type(message) is OfferWire:
        if message.sdp is not UNSET:
            return Offer(_checked_sdp(message.sdp))
        if message.payload is UNSET:
            raise ProtocolError("Bad message: Object missing required field `sdp`")
        if message.payload.type != "offer":
            raise ProtocolError("Bad message: Expected `offer` - at `$.payload.type`")
        return Offer(_checked_sdp(message.payload.sdp, "$.payload.sdp"), Dialect.PAYLOAD)
    if type(message) is IceCandidateWire:
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
    sdp: SdpText


class NodeCandidate(Struct, frozen=True, tag="candidate", tag_field="type"):
    """A node's candidate. From the wire, `candidate` is the JSON text of an RTCIceCandidateInit or null."""

    session: str
    candidate: CandidateText


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


UpdateId: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=100)]


class NodeUpdated(Struct, frozen=True, tag="updated", tag_field="type", omit_defaults=True):
    """The model has taken an update, and `values` are those in force; or it has not, and `error` says why."""

    session: str
    values: dict[str, Any] = {}
    error: str = ""
    id: UpdateId | None = None


FromNode: TypeAlias = NodeAnswer | NodeCandidate | SessionState | NodeError | NodeUpdated | Heartbeat

_register = Decoder(Register)
_node: Decoder[Register | FromNode] = Decoder(
    Register | NodeAnswer | NodeCandidate | SessionState | NodeError | NodeUpdated | Heartbeat
)


def decode_register(frame: Frame) -> RegisterPayload:
    """Return what a node's first frame says. Raises ProtocolError for anything else."""
    try:
        return _register.decode(frame).payload
    except _UNDECODABLE:
        raise ProtocolError("expected REGISTER") from None


def decode_node(frame: Frame) -> FromNode:
    """Parse one frame of `/node` behind its REGISTER. Raises ProtocolError that says what is wrong."""
    message = decode_as(_node, frame)
    if type(message) is NodeCandidate:
        _checked_candidate(message.candidate)
    elif type(message) is NodeAnswer:
        _checked_sdp(message.sdp)
    elif type(message) is Register:
        raise ProtocolError("REGISTER may only be the first message")
    else:
        assert isinstance(message, SessionState | NodeError | NodeUpdated | Heartbeat)
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


IcePolicy: TypeAlias = Literal["all", "relay"]
"""RTCIceTransportPolicy, W3C WebRTC 1.0 section 4.2.3."""


class ToNodeOffer(Struct, frozen=True, tag="offer", tag_field="type", omit_defaults=True):
    """Open this session, or renegotiate it."""

    session: str
    sdp: str
    ice_servers: list[IceServer] = []
    ice_transport_policy: IcePolicy = "all"
    params: dict[str, Any] = {}


class ToNodeCandidate(Struct, frozen=True, tag="candidate", tag_field="type"):
    """A client's candidate; null, or an empty candidate string, is the end of candidates."""

    session: str
    candidate: dict[str, Any] | None


class SessionEnd(Struct, frozen=True, tag="session_end", tag_field="type", omit_defaults=True):
    """Close the peer connection and free the slot."""

    session: str
    reason: str = ""


class ToNodeUpdate(Struct, frozen=True, tag="update", tag_field="type", omit_defaults=True):
    """Change parameters of this session's model. Sent only to nodes that say they know it, see `UPDATES`."""

    session: str
    params: dict[str, Any]
    id: UpdateId | None = None


UPDATES = "updates"
"""The label of a node that takes `update` over its socket; its value is true."""


class Drain(Struct, frozen=True, tag="drain", tag_field="type"):
    """Take no new session; close when the last one ends."""


FromBridge: TypeAlias = Registered | ToNodeOffer | ToNodeCandidate | ToNodeUpdate | SessionEnd | Drain

_bridge: Decoder[FromBridge] = Decoder(Registered | ToNodeOffer | ToNodeCandidate | ToNodeUpdate | SessionEnd | Drain)


def decode_from_bridge(frame: Frame) -> FromBridge:
    """Parse one frame that the bridge sent to a node. Raises ProtocolError that says what is wrong."""
    return decode_as(_bridge, frame)


def raw(value: object) -> Raw:
    """The JSON text of a value, for the fields that hold JSON text (an SDP, a candidate)."""
    return Raw(_encoder.encode(value))


# --- to a client, as the documented API has it ---


class AuthSuccess(Struct, frozen=True, tag="auth_success", tag_field="type"):
    """The credential is valid."""


class NodeStatus(Struct, frozen=True, tag="node_status", tag_field="type"):
    """Where the session stands."""

    status: Status


class ServerProvisioning(Struct, frozen=True, tag="server_provisioning", tag_field="type"):
    """The offer is accepted, and waits for its node."""


class ClientError(Struct, frozen=True, tag="error", tag_field="type"):
    """A refusal, or what was wrong with a message."""

    message: str


class ClientAnswer(Struct, frozen=True, tag="answer", tag_field="type"):
    """The node's WebRTC answer, in one of the two dialects."""

    sdp: SdpText | UnsetType = UNSET
    payload: Description | UnsetType = UNSET


ToClient: TypeAlias = (
    AuthSuccess | NodeStatus | ServerProvisioning | ClientError | ClientAnswer | CandidateWire | IceCandidateWire
)


# --- what the bridge writes ---

AUTH_SUCCESS = _encoder.encode(AuthSuccess())
SERVER_PROVISIONING = _encoder.encode(ServerProvisioning())
DRAIN = _encoder.encode(Drain())
NODE_STATUS = {status: _encoder.encode(NodeStatus(status)) for status in Status}

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


def node_offer(session: str, sdp: bytes) -> bytes:
    """A client's offer for the node that holds the session. `sdp` is JSON text."""
    return b'{"type":"offer","session":"%b","sdp":%b}' % (session.encode(), sdp)


def with_ice(offer: bytes, servers: Sequence[IceServer], policy: IcePolicy = "all") -> bytes:
    """The offer of `node_offer` with the ICE servers that the node is to use, and the policy unless it is `all`."""
    extra = b',"ice_servers":%b' % _encoder.encode(servers) if servers else b""
    if policy != "all":
        extra += b',"ice_transport_policy":%b' % _encoder.encode(policy)
    return b"%b%b}" % (offer[:-1], extra)


def node_candidate_prefix(session: str) -> bytes:
    """What stands before the JSON text of a candidate that is relayed to a node; `}` stands behind it."""
    return b'{"type":"candidate","session":"%b","candidate":' % session.encode()


# --- checks ---

_T = TypeVar("_T")


def decode_as(decoder: Decoder[_T], frame: Frame, path: str = "$") -> _T:
    """Decode a frame, or the part of one that stands at `path`. Raises ProtocolError that says what is wrong."""
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
    if not (text.isascii() and text.startswith(b'"') and len(text) > 2) and not decode_as(_text, sdp, path):
        raise ProtocolError(f"Bad message: Expected a non-empty string - at `{path}`")
    return text


def _checked_candidate(candidate: Raw, path: str = "$.candidate") -> bytes:
    decode_as(_candidate_init, candidate, path)
    text = bytes(candidate)
    if not text.isascii():  # fields that the decoder passes over may be no UTF-8
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"Bad JSON: {error}") from None
    return text
