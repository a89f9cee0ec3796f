"""Keys of clients and nodes: made, looked up, revoked. The store has only their digests."""

import hashlib
import logging
import re
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import keys, meta
from rtcbridge.ports import Identity, KeyRow, LedgerError

PROJECT = re.compile(r"[A-Z0-9]{6}\Z")
_BASE62 = string.digits + string.ascii_letters
_SECRET_LENGTH = 24  # 62**24 is 142 bits
FRESH = 0.05  # seconds that a revocation by another process may take to be seen at a look-up
_LONGEST = 256  # characters of a credential; no key is nearly so long
logger = logging.getLogger(__name__)
_VERSION = sa.select(meta.c.value).where(meta.c.name == "keys_version")


class SqliteKeys:
    """`Authenticator` and `Keys` over a store that other processes write too.

    All digests are held in memory. SQLite is asked whether another connection has written to the file (`PRAGMA
    data_version`), and if so, whether that touched a key: at each look-up of what is no key, and else every
    `FRESH` seconds at most. To ask costs 2 µs alone, but lets go of the interpreter, and to get it back from the
    thread that writes the ledger may take a hundred times that.
    A digest is looked up in the same way whether it is there or not, and tells nothing about its key: it is
    keyed with the store's secret.
    """

    def __init__(self, database: Database) -> None:
        """Load the digests. Raises LedgerError."""
        self._database = database
        self._lock = threading.Lock()
        self._identities: dict[bytes, Identity] = {}
        self._digests: dict[str, bytes] = {}
        self._data_version = -1
        self._keys_version = -1
        self._changed = False
        self._failing = False
        self._looked = 0.0
        # PRAGMA data_version compares with what this one connection saw before, so it must stay the same one.
        self._pooled = database.engine.raw_connection()
        self._cursor = self._pooled.cursor()
        self.changed()
        if self._failing:
            self.close()
            raise LedgerError(f"store {database.path}: the keys cannot be read")

    def identify(self, credential: str) -> Identity | None:
        """Return whose valid key this is, or None. Another process's change counts within `FRESH` seconds."""
        digest = self._digest(credential[:_LONGEST])
        with self._lock:
            if time.monotonic() - self._looked > FRESH:
                self._refresh()
            identity = self._identities.get(digest)
            if identity is None:
                self._refresh()  # a key that was made just now
                identity = self._identities.get(digest)
        return identity if len(credential) <= _LONGEST else None

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
        digest = hashlib.blake2b(node.encode(), digest_size=20, key=self._database.secret, person=b"node token")
        return f"nk_node_{_base62(int.from_bytes(digest.digest()))}"

    def create_client_key(self, project: str) -> str:
        """Make a key for clients of a project and return it; it cannot be read again.

        Raises:
            ValueError: a project is six characters A-Z 0-9.
            LedgerError: the store cannot be written.
        """
        if not PROJECT.match(project):
            raise ValueError(f"expected six characters A-Z 0-9, got {project!r}")
        return self._create(f"sk_{project}_", project=project, pool="", is_node=False)

    def create_node_key(self, pool: str) -> str:
        """Make a key for static nodes of a pool and return it, for once. Raises LedgerError."""
        return self._create(f"nk_{pool}_", project="", pool=pool, is_node=True)

    def keys(self) -> Sequence[KeyRow]:
        """Return all keys, oldest first. Raises LedgerError."""
        columns = (keys.c.id, keys.c.project, keys.c.pool, keys.c.is_node, keys.c.created, keys.c.revoked)
        rows = self._database.read(sa.select(*columns).order_by(keys.c.id))
        return [KeyRow(**{**row, "id": str(row["id"])}) for row in rows]

    def revoke_key(self, key: str) -> bool:
        """Revoke by id; false if there is no such key or it is revoked already. Raises LedgerError."""
        if not re.fullmatch(r"[0-9]{1,15}", key):
            return False
        valid = sa.and_(keys.c.id == int(key), keys.c.revoked.is_(None))
        return self._write(keys.update().where(valid).values(revoked=time.time())) == 1

    def close(self) -> None:
        """Give the connection back; the object is of no use afterwards."""
        self._cursor.close()
        self._pooled.close()

    def _create(self, prefix: str, **values: Any) -> str:
        key = prefix + "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
        self._write(keys.insert().values(digest=self._digest(key), created=time.time(), **values))
        return key

    def _write(self, statement: sa.Insert | sa.Update) -> int:
        """Change rows and mark them with a new version; return how many."""
        try:
            with self._database.engine.begin() as connection:
                version = int(connection.scalar(_VERSION) or 0) + 1
                connection.execute(meta.update().where(meta.c.name == "keys_version").values(value=str(version)))
                count = connection.execute(statement.values(changed=version)).rowcount
        except sa.exc.DBAPIError as error:
            raise LedgerError(f"store {self._database.path}: {error.orig}") from None
        self._looked = 0.0
        return count

    def _digest(self, credential: str) -> bytes:
        data = credential.encode("utf-8", "replace")
        return hashlib.blake2b(data, digest_size=32, key=self._database.secret, person=b"key").digest()

    def _refresh(self) -> None:
        """Take in keys that were made or revoked since the last call, by whatever process."""
        self._looked = time.monotonic()
        try:
            data_version = self._number("PRAGMA data_version")
            if data_version == self._data_version:
                return
            version = self._number("SELECT value FROM meta WHERE name = 'keys_version'")
            if version != self._keys_version:
                self._load(version)
        except sqlite3.Error as error:
            if not self._failing:
                logger.error("store %s: cannot be read: %s", self._database.path, error)
            self._failing = True
            return
        self._data_version = data_version
        self._failing = False

    def _number(self, query: str) -> int:
        # All rows are fetched, for a statement left half way would hold on to the state that it saw.
        return int(self._cursor.execute(query).fetchall()[0][0])

    def _load(self, version: int) -> None:
        self._cursor.execute(
            "SELECT id, digest, project, pool, is_node, revoked FROM keys WHERE changed > ?",
            (self._keys_version,),
        )
        for number, digest, project, pool, is_node, revoked in self._cursor.fetchall():
            key = str(number)
            if revoked is None:
                self._identities[digest] = Identity(key, project, pool, bool(is_node))
                self._digests[key] = digest
            else:
                self._identities.pop(digest, None)
                self._digests.pop(key, None)
        self._changed = self._changed or self._keys_version >= 0
        self._keys_version = version


def _base62(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text
