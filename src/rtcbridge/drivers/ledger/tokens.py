"""Client tokens: JWTs (RFC 7519) signed with Ed25519 (RFC 8037), behind the prefix `ek_`.

No private key is stored. Each is derived from the store's own secret and a random text of its row, so that every bridge
over the store can sign and verify, and rotating is adding a row.
"""

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta, Struct

from rtcbridge.ports import TOKEN_LIFETIME, TokenTerms

PREFIX = "ek_"
SKEW = 5.0
"""Seconds that the clocks of two bridges may differ: a token from the future is valid so much earlier."""

PUBLISHED = 5.0
"""Seconds that a key is known to all before it signs, if there is an older one."""

OVERLAP = TOKEN_LIFETIME + PUBLISHED + SKEW
"""Seconds that an older key is of use beside a newer one: all that it has signed has expired by then."""

LONGEST = 8192
"""Characters of a token; none of ours is nearly so long."""

_ALGORITHM = "EdDSA"
_DECOY = Ed25519PrivateKey.from_private_bytes(b"\0" * 32).public_key()
_DECOYED = (b"\0" * 64, b"nothing")
# The signature is the library's to verify; the claims are decoded into `Claims`, and checked against a clock that is
# passed in.
_JWS = jwt.PyJWS(algorithms=[_ALGORITHM])


class Claims(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload. Times are Unix seconds; `key` is the id of the key in whose name it was made, `sub` its project."""

    sub: str
    key: str
    jti: Annotated[str, Meta(min_length=1, max_length=64)]
    iat: int
    exp: int
    nbf: int = 0
    pools: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_session: Annotated[float, Meta(ge=0)] = 0.0
    max_sessions: Annotated[int, Meta(ge=0)] = 0
    aud: Literal["rtcbridge"]

    @property
    def terms(self) -> TokenTerms:
        """What it allows."""
        return TokenTerms(
            pools=self.pools, origins=self.origins, max_session=self.max_session, max_sessions=self.max_sessions
        )

    def holds(self, now: float) -> bool:
        """Whether it is neither expired, nor not yet valid, nor of a longer life than any of ours."""
        return max(self.iat, self.nbf) - SKEW <= now < self.exp and self.exp - self.iat <= TOKEN_LIFETIME


class _Key(NamedTuple):
    private: Ed25519PrivateKey
    public: Ed25519PublicKey
    kid: str
    jwk: Mapping[str, str]
    created: float
    expires: float | None

    def valid(self, now: float) -> bool:
        return self.expires is None or now < self.expires


class TokenKeys:
    """The keys that sign client tokens.

    Args:
        secret: the store's.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._by_row: dict[str, _Key] = {}
        self._by_kid: dict[str, _Key] = {}

    def put(self, row: str, nonce: bytes, created: float, expires: float | None) -> None:
        """Take in a stored key. `row` is its id, `nonce` its random text; times are Unix seconds."""
        seed = hashlib.blake2b(nonce, digest_size=32, key=self._secret, person=b"signing key").digest()
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public = private.public_key()
        x = _base64(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        kid = _thumbprint(x)
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": _ALGORITHM}
        self._by_row[row] = self._by_kid[kid] = _Key(private, public, kid, jwk, created, expires)

    def drop(self, row: str) -> None:
        """Forget a key that was revoked: what it has signed is worth nothing any more."""
        if (key := self._by_row.pop(row, None)) is not None:
            del self._by_kid[key.kid]

    def clear(self) -> None:
        """Forget all keys."""
        self._by_row.clear()
        self._by_kid.clear()

    def can_sign(self, now: float) -> bool:
        """Whether there is a key to sign with."""
        return self._signing(now) is not None

    def jwks(self, now: float) -> Mapping[str, object]:
        """The public keys as a JWK Set (RFC 7517)."""
        return {"keys": [dict(key.jwk) for key in self._by_row.values() if key.valid(now)]}

    def sign(self, claims: Claims, now: float) -> str:
        """Make a token, with the newest key that has been known for a while. Raises LookupError if there is none."""
        if (key := self._signing(now)) is None:
            raise LookupError("no key signs client tokens")
        payload = msgspec.to_builtins(claims)
        return PREFIX + jwt.encode(payload, key.private, algorithm=_ALGORITHM, headers={"kid": key.kid})

    def verify(self, token: str, now: float) -> Claims | None:
        """Return what a token says if one of these keys has signed it and it holds now.

        One signature is verified whatever is wrong, so that nothing is told by the time that it takes.
        """
        if len(token) > LONGEST:
            return self._nothing()
        text = token.removeprefix(PREFIX)
        try:
            kid = _JWS.get_unverified_header(text).get("kid")
            key = self._by_kid.get(kid) if isinstance(kid, str) else None
            known = key is not None and key.valid(now)
            payload = _JWS.decode(text, key.public if key else _DECOY, algorithms=[_ALGORITHM])
            claims = msgspec.json.decode(payload, type=Claims)
        except (jwt.InvalidSignatureError, msgspec.DecodeError):
            return None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return self._nothing()
        return claims if known and claims.holds(now) else None

    def _signing(self, now: float) -> _Key | None:
        valid = sorted((key for key in self._by_row.values() if key.valid(now)), key=lambda key: key.created)
        known = [key for key in valid if key.created + PUBLISHED <= now]
        return known[-1] if known else valid[0] if valid else None

    @staticmethod
    def _nothing() -> None:
        with contextlib.suppress(InvalidSignature):  # it is there for the time that it takes
            _DECOY.verify(*_DECOYED)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _thumbprint(x: str) -> str:
    """The name of a key by what it is: RFC 7638, and RFC 8037 appendix A.3."""
    text = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return _base64(hashlib.sha256(text.encode()).digest())
