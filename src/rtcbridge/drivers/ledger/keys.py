"""Looking keys and client tokens up. All digests are in memory."""

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Mapping
from math import inf
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database, KeyChanges
from rtcbridge.drivers.ledger.key_maker import BASE62, KeyMaker, parse_limits, parse_scopes
from rtcbridge.drivers.ledger.schema import keys
from rtcbridge.drivers.ledger.tokens import PREFIX, Claims, TokenKeys
from rtcbridge.ports import Identity, KeyLimits, Restrictions, TokenTerms

FRESH = 0.05  # seconds that a revocation by another process may take to be seen at a look-up
_LONGEST = 256  # characters of a credential; no key is nearly so long
_T = TypeVar("_T")
LOCAL_ADMIN = "local"
"""The id that stands for whoever made an admin token out of the store itself."""

TOKEN_LIFETIME = 60.0
"""Seconds that such a token is valid."""

_TOKEN = re.compile(r"ak_local_([0-9]{1,12})_[0-9A-Za-z]{1,40}\Z", re.ASCII)


class KeyStore(KeyMaker):
    """`Authenticator` and `Keys` over a store that other processes write too.

    All digests are held in memory. The store's feed is asked for changes at each look-up of what is no key, and else
    every `FRESH` seconds at most: in SQLite that costs 2 µs alone, but lets go of the interpreter, and to get it back
    from the thread that writes the ledger may take a hundred times that; in PostgreSQL a thread has read them before.
    A digest is looked up in the same way whether it is there or not, and tells nothing about its key: it is
    keyed with the store's secret.
    """

    def __init__(self, database: Database) -> None:
        """Load the digests. Raises LedgerError."""
        super().__init__(database)
        self._lock = threading.Lock()
        self._identities: dict[bytes, Identity] = {}
        self._admins: dict[bytes, str] = {}  # apart, so that nobody takes one for the key of a client or a node
        self._digests: dict[str, bytes] = {}
        self._expires: dict[bytes, float] = {}  # of those that do
        self._clients: dict[str, Identity] = {}  # by the key's id
        self._tokens = TokenKeys(database.secret)
        self._used: set[str] = set()
        self._changed = False
        self._version = -1
        self._looked = 0.0
        self._feed = database.key_feed()
        self.changed()

    def identify(self, credential: str) -> Identity | None:
        """Return whose valid key or client token this is, or None; another process's change counts within `FRESH` s."""
        if credential.startswith(PREFIX):
            return self._identify_token(credential)
        found = self._look_up(self._identities, credential)
        if found is not None:
            self._used.add(found.key)
        return found

    def identify_admin(self, credential: str) -> str | None:
        """Return the id of the admin key that this is, or None. A token of `admin_token` is `LOCAL_ADMIN`'s."""
        if match := _TOKEN.match(credential):
            made, now = float(match[1]), time.time()
            token = admin_token(self._database.secret, made)
            fresh = abs(now - made) <= TOKEN_LIFETIME
            return LOCAL_ADMIN if hmac.compare_digest(token, credential) and fresh else None
        found = self._look_up(self._admins, credential)
        if found is not None:
            self._used.add(found)
        return found

    def is_valid(self, key: str) -> bool:
        """Say whether the key of this id still is valid, as of the last `changed()` or `identify()`."""
        return key in self._digests

    def changed(self) -> bool:
        """Take in what other processes changed; true if any key changed since the last call."""
        with self._lock:
            self._refresh()
            changed, self._changed = self._changed, False
        return changed

    def prepare_tokens(self) -> None:
        """Make the first key that signs client tokens, if there is none. Raises LedgerError."""
        with self._lock:
            ready = self._tokens.can_sign(time.time())
        if not ready:
            super().prepare_tokens()
            self._look_again()

    def make_token(self, identity: Identity, terms: TokenTerms, lifetime: float) -> tuple[str, int]:
        """Make a client token in the name of a key; return it with its end. See `Authenticator`."""
        now = time.time()
        end = int(min(now + lifetime, self._expires.get(self._digests.get(identity.key, b""), inf)))
        claims = Claims(
            aud="rtcbridge",
            sub=identity.project,
            key=identity.key,
            jti=secrets.token_urlsafe(12),
            iat=int(now),
            exp=end,
            **msgspec.structs.asdict(terms),
        )
        with self._lock:
            return self._tokens.sign(claims, now), end

    def token_keys(self) -> Mapping[str, object]:
        """Return the public keys of client tokens, as a JWK Set (RFC 7517)."""
        self._look_again()
        with self._lock:
            return self._tokens.jwks(time.time())

    def write_uses(self) -> None:
        """Write down which keys were used since the last call. Raises LedgerError; they are kept for the next."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            with self._database.engine.begin() as connection:
                mine = keys.c.id.in_([int(key) for key in used])
                connection.execute(keys.update().where(mine).values(last_used=time.time()))
        except sa.exc.DBAPIError as error:
            self._used |= used
            raise self._database.error(error) from None

    def node_token(self, node: str) -> str:
        """Return the token of a node that a provider made: the same at each call, across restarts."""
        return f"nk_node_{_base62(int.from_bytes(self._sealed(b'node token', node, size=20)))}"

    def visit_token(self, visit: str, project: str, pool: str) -> str:
        """Return what a client takes up its visit with: the same at each call, from every bridge over the store."""
        digest = self._sealed(b"visit token", visit, project, pool, size=24)
        return f"{visit}.{base64.urlsafe_b64encode(digest).decode()}"

    def _sealed(self, person: bytes, *texts: str, size: int) -> bytes:
        """A digest of so many bytes that only who has the store's secret can make; no text holds a zero byte."""
        text = "\0".join(texts).encode(errors="replace")
        return hashlib.blake2b(text, digest_size=size, key=self._database.secret, person=person).digest()

    def close(self) -> None:
        """Let go of the store; the object is of no use afterwards."""
        self._feed.close()

    def _look_up(self, known: Mapping[bytes, _T], credential: str) -> _T | None:
        digest = self._digest(credential[:_LONGEST])
        with self._lock:
            if time.monotonic() - self._looked > FRESH:
                self._refresh()
            found = known.get(digest)
            if found is None:
                self._refresh()  # a key that was made just now
                found = known.get(digest)
            if self._expires and self._expires.get(digest, inf) <= time.time():
                found = None
        return found if len(credential) <= _LONGEST else None

    def _identify_token(self, token: str) -> Identity | None:
        with self._lock:
            self._refresh()  # there may be a new signing key; the feed says in 2 µs that there is not
            claims = self._tokens.verify(token, time.time())
            client = self._clients.get(claims.key) if claims is not None else None
        if claims is None or client is None or client.project != claims.sub:
            return None
        self._used.add(client.key)
        limits = client.restrictions.limits if client.restrictions is not None else KeyLimits()
        restrictions = Restrictions(scopes=("connect",), limits=limits, token=claims.jti, terms=claims.terms)
        return Identity(client.key, client.project, restrictions=restrictions)

    def _write(self, *statements: sa.Insert | sa.Update, unless: sa.Select[Any] | None = None) -> list[int]:
        counts = super()._write(*statements, unless=unless)
        self._feed.catch_up()
        self._looked = 0.0
        return counts

    def _look_again(self) -> None:
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        """Take in keys that were made or revoked since the last call, by whatever process."""
        self._looked = time.monotonic()
        while changes := self._feed.look():
            self._take(changes)

    def _take(self, changes: KeyChanges) -> None:
        if changes.complete:
            for known in (self._identities, self._admins, self._digests, self._expires, self._clients, self._tokens):
                known.clear()
        for row in changes.rows:
            self._take_row(*row)
        self._changed = self._changed or self._version >= 0
        self._version = changes.version

    def _take_row(
        self,
        number: int,
        digest: bytes,
        project: str,
        pool: str,
        is_node: bool,
        is_admin: bool,
        revoked: float | None,
        is_signing: bool,
        scopes: str,
        limits: str,
        expires: float | None,
        created: float,
    ) -> None:
        """Take in a row of `KEY_COLUMNS`."""
        key = str(number)
        self._expires.pop(digest, None)
        if revoked is not None:
            self._identities.pop(digest, None)
            self._admins.pop(digest, None)
            self._digests.pop(key, None)
            self._clients.pop(key, None)
            self._tokens.drop(key)
            return
        if is_signing:
            self._tokens.put(key, digest, created, expires)
            return
        self._digests[key] = digest
        if expires is not None:
            self._expires[digest] = expires
        if is_admin:
            self._admins[digest] = key
            return
        identity = Identity(key, project, pool, bool(is_node), _restrictions(scopes, limits))
        self._identities[digest] = identity
        if not is_node:
            self._clients[key] = identity


def admin_token(secret: bytes, now: float) -> str:
    """Make a credential for the admin API out of the store's own secret, valid for `TOKEN_LIFETIME`.

    Who can read the store can do anything that an admin can; this spares him a key. Nothing is stored of it.

    Args:
        secret: `Database.secret`.
        now: Unix seconds.
    """
    digest = hashlib.blake2b(b"%d" % now, digest_size=20, key=secret, person=b"admin token")
    return f"ak_local_{int(now)}_{_base62(int.from_bytes(digest.digest()))}"


def _base62(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text


def _restrictions(scopes: str, limits: str) -> Restrictions | None:
    if not scopes and not limits:
        return None
    return Restrictions(scopes=parse_scopes(scopes), limits=parse_limits(limits))
