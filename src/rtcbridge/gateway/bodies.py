"""Reading the bodies of HTTP requests."""

from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY = 16 * 1024
"""Bytes of a request's body; above it 413."""

_T = TypeVar("_T")


async def read_body(request: Request, kind: type[_T]) -> _T:
    """Return the body of a request, JSON of this type; none counts as an empty object. Raises HTTPException."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"The body is over {MAX_BODY} bytes.")
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"body: {str(error)[:200]}") from None
