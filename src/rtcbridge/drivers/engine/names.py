"""What the engine's records can hold."""

from rtcbridge.ports_engine import INFO_LIMIT

_REASON = 200  # characters


def checked(*names: str) -> None:
    """Raise ValueError for a name that the engine's records cannot hold."""
    for name in names:
        if "|" in name or len(name) > 256:
            raise ValueError(f"not a name for the engine: {name[:40]!r}")


def checked_info(info: str) -> str:
    """Return a node's `info`. Raises ValueError if it is too long or is no text."""
    try:
        size = len(info.encode())
    except UnicodeEncodeError:
        raise ValueError("a node's info is no text") from None
    if size > INFO_LIMIT:
        raise ValueError(f"a node's info has {size} bytes; {INFO_LIMIT} are allowed")
    return info


def printable(reason: str) -> str:
    """Why a session ended, as any engine and any ledger takes it: a node may have said it."""
    return "".join(each if each.isprintable() else " " for each in reason[:_REASON])
