"""Every way in which a session of a client can go wrong, in one closed list."""

from __future__ import annotations

from typing import Any, NamedTuple

from rtcbridge.core.errors import CloseCode, Error


class _Row(NamedTuple):
    text: str
    retryable: bool


_OWN = {
    "auth_failed": _Row("The bridge did not accept the credential.", False),
    "network": _Row("The bridge cannot be reached.", True),
    "shutdown": _Row("The bridge is restarting.", True),
    "overloaded": _Row("The bridge closed the connection because it was too slow.", True),
    "policy": _Row("The bridge closed the connection: the key was revoked or a limit was passed.", False),
    "bad_input": _Row("The bridge did not understand a message.", False),
    "ice_failed": _Row("No media connection to the node could be made or kept.", True),
    "node_closed": _Row("The node ended the session.", True),
    "wrong_model": _Row("The node runs another model.", False),
    "source_failed": _Row("The source cannot be read.", False),
    "model_error": _Row("The model failed.", True),
    "rejected": _Row("The model did not take the parameters.", False),
    "timeout": _Row("No answer arrived in time.", True),
    "internal": _Row("The client failed.", False),
    "closed": _Row("The session is over.", False),
}
CODES = _OWN | {error.code: _Row(error.text, error.retryable) for error in Error}
"""Code: what it means, and whether the same may succeed later without a change."""

_BY_TEXT = {error.text: error.code for error in Error}
_RENAMED = {Error.UPDATE_REFUSED.code: "rejected"}
_BY_CLOSE: dict[int, str] = {
    CloseCode.RESTART: "shutdown",
    CloseCode.INTERNAL: "overloaded",
    CloseCode.TRY_LATER: "overloaded",
    CloseCode.POLICY: "policy",
    CloseCode.PROTOCOL_ERROR: "bad_input",
    CloseCode.UNSUPPORTED_DATA: "bad_input",
    CloseCode.INVALID_DATA: "bad_input",
    CloseCode.TOO_BIG: "bad_input",
}


class ClientError(Exception):
    """What went wrong, for programs and for people.

    Attributes:
        code: one of `CODES`, or one that a newer bridge has given.
        retryable: whether the same may succeed later without a change by the caller.
        retry_after: seconds after which trying again may help, where the bridge knows.
    """

    def __init__(
        self, code: str, text: str = "", *, retryable: bool | None = None, retry_after: float | None = None
    ) -> None:
        row = CODES.get(code, CODES["bad_input"])
        super().__init__(text or row.text)
        self.code = code
        self.retryable = row.retryable if retryable is None else retryable
        self.retry_after = retry_after


def from_message(message: dict[str, Any]) -> ClientError:
    """The error that an `error` of the bridge means: by its code, or by its text; an unknown one is bad input."""
    text = str(message.get("message", ""))
    told = message.get("code") or _BY_TEXT.get(text, "bad_input")
    code = _RENAMED.get(told, told)
    return ClientError(code, text, retryable=message.get("retryable"), retry_after=message.get("retry_after"))


def from_close(code: int, authenticated: bool) -> ClientError:
    """The error that the end of a socket means.

    Before `auth_success` the bridge closes with 1008 and no reason whatever was wrong; any other end there means that
    the bridge was not reached.
    """
    if not authenticated and code == CloseCode.POLICY:
        return ClientError("auth_failed")
    known = authenticated or code == CloseCode.RESTART
    return ClientError(_BY_CLOSE.get(code, "network") if known else "network")
