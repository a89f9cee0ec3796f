"""The messages that the subprotocol `rtcbridge.v2` adds for clients, and the fields that it adds to others."""

from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.json import Decoder

from rtcbridge.core import messages
from rtcbridge.core.messages import ClientWire, Frame, FromClient, IcePolicy, IceServer, Status, UpdateId

SUBPROTOCOL = "rtcbridge.v2"


# --- both ways ---


class Ack(Struct, frozen=True, tag="ack", tag_field="type"):
    """So many numbered messages of the other side have been taken. It has no number itself."""

    received: int


# --- from a client ---


class SessionResume(Struct, frozen=True, tag="session_resume", tag_field="type"):
    """Take a session over. `received` is how many numbered messages the client has taken on its sockets before."""

    resume: str
    received: int


class ClientEnd(Struct, frozen=True, tag="session_end", tag_field="type", omit_defaults=True):
    """The client wants its session no more; its socket stays."""

    reason: str = ""


class Update(Struct, frozen=True, tag="update", tag_field="type", omit_defaults=True):
    """Change parameters of the model. The answer repeats `id`."""

    params: dict[str, Any]
    id: UpdateId | None = None


Added: TypeAlias = Ack | SessionResume | ClientEnd | Update
FromExtendedClient: TypeAlias = FromClient | Added

_extended: Decoder[ClientWire | Added] = Decoder(ClientWire | Added)


def decode(frame: Frame) -> FromExtendedClient:
    """Parse one frame of a client of the extension. Raises ProtocolError with the text that it is sent."""
    message = messages.decode_as(_extended, frame)
    if isinstance(message, Ack | SessionResume | ClientEnd | Update):
        return message
    return messages.checked(message)


# --- to a client ---


class ExtendedAuthSuccess(Struct, frozen=True, tag="auth_success", tag_field="type", omit_defaults=True):
    """The credential is valid; `resume` takes `session` over on another socket."""

    session: str
    resume: str
    ice_servers: list[IceServer] = []
    ice_transport_policy: IcePolicy = "all"


class IceRefresh(Struct, frozen=True, tag="ice_servers", tag_field="type"):
    """These take the place of the ICE servers that the client was told before, whose credentials soon expire."""

    ice_servers: list[IceServer]


class ExtendedNodeStatus(Struct, frozen=True, tag="node_status", tag_field="type", omit_defaults=True):
    """Where the session stands: `position` 1 is next, `eta` is in seconds; in line only, and where it is known."""

    status: Status
    position: int | None = None
    eta: int | None = None


class ExtendedError(Struct, frozen=True, tag="error", tag_field="type", omit_defaults=True):
    """A refusal. `retry_after` is in seconds; `id` is that of the `update` that is refused."""

    message: str
    code: str
    retryable: bool
    retry_after: int | None = None
    id: UpdateId | None = None


class Resumed(Struct, frozen=True, tag="session_resume", tag_field="type", omit_defaults=True):
    """The session is this socket's; `received` numbered messages of the client are taken. `anew`: both count anew."""

    session: str
    received: int
    anew: bool = False


class SessionEnded(Struct, frozen=True, tag="session_end", tag_field="type"):
    """The session is over; its slot or place is given back."""

    reason: str


class Updated(Struct, frozen=True, tag="updated", tag_field="type", omit_defaults=True):
    """The model has taken the update; `values` are all that are in force."""

    values: dict[str, Any]
    id: UpdateId | None = None


class Reconnect(Struct, frozen=True, tag="reconnect", tag_field="type"):
    """The bridge is about to close the socket: resume on another one."""


RECONNECT = messages.encode(Reconnect())
ToExtendedClient: TypeAlias = (
    ExtendedAuthSuccess | IceRefresh | ExtendedNodeStatus | messages.ServerProvisioning | ExtendedError
    | messages.ClientAnswer | messages.CandidateWire | messages.IceCandidateWire | Resumed | SessionEnded | Updated
    | Reconnect | Ack
)  # fmt: skip
