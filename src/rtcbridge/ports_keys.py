"""Who is who: keys, client tokens, and what they allow."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

SCOPES = ("connect", "tokens")
"""What a client's key may be allowed: to open sockets and sessions, and to make client tokens."""

TOKEN_LIFETIME = 3600
"""Seconds that a client token is valid at most."""


class KeyLimits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key may use, its client tokens included; 0 means no maximum.

    Attributes:
        connections: sockets at once.
        sessions: sessions at once, those in line included.
        messages: messages a second.
        creations: sessions and client tokens that are begun or made a minute.
    """

    connections: int = 0
    sessions: int = 0
    messages: int = 0
    creations: int = 0


class TokenTerms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client token allows.

    Attributes:
        pools: that its sessions may use; () for those of its project.
        origins: of the pages that may show it; () for all, and for those that are no pages.
        max_session: seconds that one of its sessions lasts at most; 0 for the bridge's own maximum.
        max_sessions: at once, those in line included; 0 for no maximum of its own.
    """

    pools: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_session: float = 0.0
    max_sessions: int = 0


class Restrictions(Struct, frozen=True, kw_only=True):
    """What is not allowed to everybody: of a key with scopes or limits, and of each client token.

    Attributes:
        scopes: of `SCOPES`; () for all of them.
        limits: of the key.
        token: the token's own id; "" for a key.
        terms: of the token.
    """

    scopes: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    token: str = ""
    terms: TokenTerms = TokenTerms()


class Identity(Struct, frozen=True):
    """Whom a credential belongs to. `pool` is set for the key of a static node only.

    `restrictions` is None for a key that may do everything: it costs nothing to look for what it may not.
    """

    key: str
    project: str = ""
    pool: str = ""
    is_node: bool = False
    restrictions: Restrictions | None = None

    def may(self, scope: str) -> bool:
        """Whether it has one of `SCOPES`."""
        return self.restrictions is None or not self.restrictions.scopes or scope in self.restrictions.scopes


class Bounds(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What binds the sessions of a client beside its pool, for as long as they live, wherever they go on.

    Attributes:
        groups: sets of sessions that its sessions belong to, with how many each may have at once; 0 for any number.
        max_session: seconds that one lasts at most; 0 for the bridge's own maximum.
    """

    groups: Mapping[str, int] = {}
    max_session: float = 0.0


class KeyRow(Struct, frozen=True, kw_only=True):
    """A stored key, without the key. Times are Unix seconds; `revoked` is None while the key is valid.

    `last_used` is a minute old at most while a bridge runs, and None for a key that was never used.
    """

    id: str
    project: str = ""
    pool: str = ""
    is_node: bool = False
    is_admin: bool = False
    created: float
    revoked: float | None = None
    is_signing: bool = False
    scopes: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    expires: float | None = None
    last_used: float | None = None


class Authenticator(Protocol):
    """Says whom a credential belongs to. Called for each connection: it must take microseconds."""

    def identify(self, credential: str) -> Identity | None:
        """Return whose valid key or client token this is, or None.

        Another process's change counts at once (within 50 ms). For a token it takes some tenths of a millisecond.
        """
        ...

    def identify_admin(self, credential: str) -> str | None:
        """Return the id of the admin key that this is, or None. No admin key is anybody to `identify`."""
        ...

    def is_valid(self, key: str) -> bool:
        """Say whether the key of this id still is valid, as of the last `changed()` or `identify()`."""
        ...

    def changed(self) -> bool:
        """Take in what other processes changed; true if any key changed since the last call."""
        ...

    def node_token(self, node: str) -> str:
        """Return the token of a node that a provider made: the same at each call, across restarts."""
        ...

    def visit_token(self, visit: str, project: str, pool: str) -> str:
        """Return what a client takes up its visit with: the same at each call, from every bridge over the store."""
        ...

    def prepare_tokens(self) -> None:
        """Make the first key that signs client tokens, if there is none. It may block. Raises LedgerError."""
        ...

    def make_token(self, identity: Identity, terms: TokenTerms, lifetime: float) -> tuple[str, int]:
        """Make a client token in the name of a key, behind `prepare_tokens`.

        Args:
            identity: of the key.
            terms: what the token allows.
            lifetime: seconds, up to `TOKEN_LIFETIME`; it ends with the key at the latest.

        Returns:
            The token, and when it expires, in Unix seconds.
        """
        ...

    def token_keys(self) -> Mapping[str, object]:
        """Return the public keys of client tokens, as a JWK Set (RFC 7517)."""
        ...

    def write_uses(self) -> None:
        """Write down which keys were used since the last call. It may block. Raises LedgerError."""
        ...


class Keys(Protocol):
    """Making and revoking keys; only a digest is stored."""

    def create_client_key(
        self,
        project: str,
        *,
        scopes: Sequence[str] = (),
        limits: KeyLimits = KeyLimits(),  # noqa: B008 - it is frozen
        expires: float | None = None,
    ) -> str:
        """Make a key for clients of a project and return it; it cannot be read again. `expires`: Unix seconds."""
        ...

    def create_node_key(self, pool: str, *, expires: float | None = None) -> str:
        """Make a key for static nodes of a pool and return it; it cannot be read again."""
        ...

    def create_admin_key(self, *, expires: float | None = None) -> str:
        """Make a key for the admin API and return it; it cannot be read again."""
        ...

    def rotate_key(self, key: str, overlap: float) -> str | None:
        """Make a key like the one of this id, which expires in so many seconds; None if that is not valid."""
        ...

    def rotate_signing_key(self) -> str:
        """Make a new key that signs client tokens, and return its id; the old ones verify what they have signed."""
        ...

    def keys(self) -> Sequence[KeyRow]:
        """Return all keys, oldest first."""
        ...

    def revoke_key(self, key: str) -> bool:
        """Revoke by id; false if there is no such key or it is revoked already."""
        ...
