"""Every error that a client or a node can be told, in one closed list."""

from enum import Enum
from typing import NamedTuple


class CloseCode(int, Enum):
    """WebSocket close codes that the bridge sends (RFC 6455 section 7.4.1; 1012, 1013: IANA)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013


class _Error(NamedTuple):
    code: str
    text: str
    retryable: bool


class Error(_Error, Enum):
    """A refusal, with the literal text of the documented dialect.

    `code` is stable and for machines, `text` is what `{"type":"error","message":…}` carries, and `retryable`
    says whether the same request may succeed later without a change by the caller.
    """

    POOL_FULL = ("pool_full", "Maximum pool size reached. Cannot assign a new node.", True)
    START_FAILED = ("start_failed", "Failed to start a stopped node.", True)
    NODE_LOST = ("node_lost", "The node was lost.", True)
    NO_ANSWER = ("no_answer", "The node did not answer.", True)
    NODE_REFUSED = ("node_refused", "The node could not go on with the session.", True)
    NO_MEDIA = ("no_media", "No media arrived in time after the answer.", True)
    SESSION_TOO_LONG = ("session_too_long", "The session reached its maximum length.", False)
    OPERATOR = ("session_ended", "The session was ended by the operator.", True)
    TOO_MANY_CANDIDATES = ("too_many_candidates", "Too many candidates before the node is ready.", False)
    SESSION_LIMIT = ("session_limit", "The credential has as many sessions as it may have.", True)
    RATE_LIMITED = ("rate_limited", "The credential has been used too often in a short time.", True)
    # Of the extension only. BAD_MESSAGE and UPDATE_REFUSED carry another text, which says what was wrong.
    BAD_MESSAGE = ("bad_message", "The message was not understood.", False)
    NO_NODE = ("no_node", "No node serves the session now.", True)
    UPDATE_REFUSED = ("update_refused", "The model refused the update.", False)
    UPDATE_UNSUPPORTED = ("update_unsupported", "The node takes updates on the data channel only.", False)
    RESUME_UNKNOWN = ("resume_unknown", "There is no such session to resume.", False)
    RESUME_GAP = ("resume_gap", "More was missed than is kept.", False)


EXTENDED_ERRORS = frozenset(
    {
        Error.BAD_MESSAGE,
        Error.NO_NODE,
        Error.UPDATE_REFUSED,
        Error.UPDATE_UNSUPPORTED,
        Error.RESUME_UNKNOWN,
        Error.RESUME_GAP,
    }
)
"""Those that only clients of the extension are told."""


class ProtocolError(Exception):
    """A peer sent what is not allowed. The text is what the peer is told."""


class TransitionError(Exception):
    """Our own code asked a state machine for a step that its table does not have."""
