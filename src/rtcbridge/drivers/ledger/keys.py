"""Keys of clients, nodes and operators: made, looked up, revoked. The store has only their digests."""

import base64
import hashlib
import hmac
import re
import secrets
import string
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database, KeyChanges
from rtcbridge.drivers.ledger.schema import keys, meta
from rtcbridge.ports import Identity, KeyRow

PROJECT = re.compile(r"[A-Z0-9]{6}\Z")
_BASE62 = string.digits + string.ascii_letters
_SECRET_LENGTH = 24  # 62**24 is 142 bits
FRESH = 0.05  # seconds that a revocation by another process may take to be seen at a look-up
_LONGEST = 256  # characters of a credential; no key is nearly so long
_T = TypeVar("_T")
LOCAL_ADMIN = "local"
"""The id that stands for whoever made an admin token out of the store itself."""

TOKEN_LIFETIME = 60.0
"""Seconds that such a token is valid."""

_TOKEN = re.compile(r"ak_local_([0-9]{1,12})_[0-9A-Za-z]{1,40}\Z", re.ASCII)
_VERSION = sa.select(meta.c.value).where(meta.c.name == "keys_version")


class KeyMaker:
    """`Keys`: makes, lists and revokes. It looks none up; `KeyStore` does."""

    def __init__(self, database: Database) -> None:
        """Keep the store; nothing is read yet."""
        self._database = database
        # To copy it costs half as much as to make it anew.
        self._keyed = hashlib.blake2b(digest_size=32, key=database.secret, person=b"key")

    def create_client_key(self, project: str) -> str:
        """Make a key for clients of a project and return it; it cannot be read again.

        Raises:
            ValueError: a project is six characters A-Z 0-9.
            LedgerError: the store cannot be written.
        """
        if not PROJECT.match(project):
            raise ValueError(f"expected six characters A-Z 0-9, got {project!r}")
        return self._create(f"sk_{project}_", project=project)

    def create_node_key(self, pool: str) -> str:
        """Make a key for static nodes of a pool and return it, for once. Raises LedgerError."""
        return self._create(f"nk_{pool}_", pool=pool, is_node=True)

    def create_admin_key(self) -> str:
        """Make a key for the admin API and return it, for once. Raises LedgerError."""
        return self._create("ak_", is_admin=True)

    def keys(self) -> Sequence[KeyRow]:
        """Return all keys, oldest first. Raises LedgerError."""
        columns = [keys.c[name] for name in KeyRow.__struct_fields__]
        rows = self._database.read(sa.select(*columns).order_by(keys.c.id))
        return [KeyRow(**{**row, "id": str(row["id"])}) for row in rows]

    def revoke_key(self, key: str) -> bool:
        """Revoke by id; false if there is no such key or it is revoked already. Raises LedgerError."""
        if not re.fullmatch(r"[0-9]{1,9}", key):
            return False
        valid = sa.and_(keys.c.id == int(key), keys.c.revoked.is_(None))
        return self._write(keys.update().where(valid).values(revoked=time.time())) == 1

    def _create(self, prefix: str, **kind: Any) -> str:
        key = prefix + "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
        values = {"project": "", "pool": "", "is_node": False, "is_admin": False} | kind
        self._write(keys.insert().values(digest=self._digest(key), created=time.time(), **values))
        return key

    def _write(self, statement: sa.Insert | sa.Update) -> int:
        """Change rows and mark them with a new version; return how many."""
        try:
            with self._database.engine.begin() as connection:
                # Another process that writes keys waits here, so that versions are committed in their order.
                version = int(connection.scalar(_VERSION.with_for_update()) or 0) + 1
                connection.execute(meta.update().where(meta.c.name == "keys_version").values(value=str(version)))
                count = connection.execute(statement.values(changed=version)).rowcount
                self._database.announce_keys(connection)
        except sa.exc.DBAPIError as error:
            raise self._database.error(error) from None
        return count

    def _digest(self, credential: str) -> bytes:
        digest = self._keyed.copy()
        digest.update(credential.encode("utf-8", "replace"))
        return digest.digest()


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
        self._changed = False
        self._version = -1
        self._looked = 0.0
        self._feed = database.key_feed()
        self.changed()

    def identify(self, credential: str) -> Identity | None:
        """Return whose valid key this is, or None. Another process's change counts within `FRESH` seconds."""
        return self._look_up(self._identities, credential)

    def identify_admin(self, credential: str) -> str | None:
        """Return the id of the admin key that this is, or None. A token of `admin_token` is `LOCAL_ADMIN`'s."""
        if match := _TOKEN.match(credential):
            made, now = float(match[1]), time.time()
            token = admin_token(self._database.secret, made)
            fresh = abs(now - made) <= TOKEN_LIFETIME
            return LOCAL_ADMIN if hmac.compare_digest(token, credential) and fresh else None
        return self._look_up(self._admins, credential)

    def is_valid(self, key: str) -> bool:
        """Say whether the key of this id still is valid, as of the last `changed()` or `identify()`."""
        return key in self._digests

    def changed(self) -> bool:
        """Take in what other processes changed; true if any key changed since the last call."""
        with self._lock:
            self._refresh()
            changed, self._changed = self._changed, False
        return changed

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
        return found if len(credential) <= _LONGEST else None

    def _write(self, statement: sa.Insert | sa.Update) -> int:
        count = super()._write(statement)
        self._feed.catch_up()
        self._looked = 0.0
        return count

    def _refresh(self) -> None:
        """Take in keys that were made or revoked since the last call, by whatever process."""
        self._looked = time.monotonic()
        while changes := self._feed.look():
            self._take(changes)

    def _take(self, changes: KeyChanges) -> None:
        if changes.complete:
            self._identities.clear()
            self._admins.clear()
            self._digests.clear()
        for number, digest, project, pool, is_node, is_admin, revoked in changes.rows:
            key = str(number)
            if revoked is not None:
                self._identities.pop(digest, None)
                self._admins.pop(digest, None)
                self._digests.pop(key, None)
                continue
            self._digests[key] = digest
            if is_admin:
                self._admins[digest] = key
            else:
                self._identities[digest] = Identity(key, project, pool, bool(is_node))
        self._changed = self._changed or self._version >= 0
        self._version = changes.version


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
        text = _BASE62[digit] + text
    return text
