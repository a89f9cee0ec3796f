"""Keys of clients, nodes and operators: made, listed, rotated, revoked. The store has only their digests."""

import hashlib
import re
import secrets
import string
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import msgspec
import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import keys, meta
from rtcbridge.drivers.ledger.tokens import OVERLAP
from rtcbridge.ports import SCOPES, KeyLimits, KeyRow

PROJECT = re.compile(r"[A-Z0-9]{6}\Z")
BASE62 = string.digits + string.ascii_letters
_SECRET_LENGTH = 24  # 62**24 is 142 bits
_ID = re.compile(r"[0-9]{1,9}\Z", re.ASCII)
_VERSION = sa.select(meta.c.value).where(meta.c.name == "keys_version")


class KeyMaker:
    """`Keys`: makes, lists and revokes. It looks none up; `KeyStore` does."""

    def __init__(self, database: Database) -> None:
        """Keep the store; nothing is read yet."""
        self._database = database
        # To copy it costs half as much as to make it anew.
        self._keyed = hashlib.blake2b(digest_size=32, key=database.secret, person=b"key")

    def create_client_key(
        self,
        project: str,
        *,
        scopes: Sequence[str] = (),
        limits: KeyLimits = KeyLimits(),  # noqa: B008 - it is frozen
        expires: float | None = None,
    ) -> str:
        """Make a key for clients of a project and return it; it cannot be read again.

        Args:
            project: six characters A-Z 0-9.
            scopes: what it may do, of `SCOPES`; all, if there are none.
            limits: what it may use.
            expires: Unix seconds; None for never.

        Raises:
            ValueError: the project or a scope is none.
            LedgerError: the store cannot be written.
        """
        if not PROJECT.match(project):
            raise ValueError(f"expected six characters A-Z 0-9, got {project!r}")
        if unknown := set(scopes) - set(SCOPES):
            raise ValueError(f"expected scopes of {', '.join(SCOPES)}, got {unknown.pop()!r}")
        text = "" if limits == KeyLimits() else msgspec.json.encode(limits).decode()
        return self._create(project=project, scopes=",".join(dict.fromkeys(scopes)), limits=text, expires=expires)

    def create_node_key(self, pool: str, *, expires: float | None = None) -> str:
        """Make a key for static nodes of a pool and return it, for once. Raises LedgerError."""
        return self._create(pool=pool, is_node=True, expires=expires)

    def create_admin_key(self, *, expires: float | None = None) -> str:
        """Make a key for the admin API and return it, for once. Raises LedgerError."""
        return self._create(is_admin=True, expires=expires)

    def keys(self) -> Sequence[KeyRow]:
        """Return all keys, oldest first. Raises LedgerError."""
        columns = [keys.c[name] for name in KeyRow.__struct_fields__]
        return [_key_row(row) for row in self._database.read(sa.select(*columns).order_by(keys.c.id))]

    def revoke_key(self, key: str) -> bool:
        """Revoke by id; false if there is no such key or it is revoked already. Raises LedgerError."""
        if not _ID.match(key):
            return False
        valid = sa.and_(keys.c.id == int(key), keys.c.revoked.is_(None))
        return self._write(keys.update().where(valid).values(revoked=time.time()))[0] == 1

    def rotate_key(self, key: str, overlap: float) -> str | None:
        """Make a key that may do what the one of this id may, which expires in `overlap` seconds, if not before.

        One that was to expire is followed by one that lives as long. None if there is no such key, if it is not valid
        any more, or if it is one of `rotate_signing_key`. Raises LedgerError.
        """
        now = time.time()
        rows = self._database.read(sa.select(keys).where(keys.c.id == int(key))) if _ID.match(key) else []
        if not rows or rows[0]["revoked"] or rows[0]["is_signing"]:
            return None
        row = rows[0]
        end = inf if row["expires"] is None else row["expires"]
        if end <= now:
            return None
        same = {name: row[name] for name in ("project", "pool", "is_node", "is_admin", "scopes", "limits")}
        expires = None if end == inf else now + end - row["created"]
        older = keys.update().where(keys.c.id == int(key)).values(expires=min(end, now + overlap))
        return self._create(older, expires=expires, **same)

    def rotate_signing_key(self) -> str:
        """Make a new key that signs client tokens and return its id; older ones verify what they have signed.

        Raises LedgerError.
        """
        end = time.time() + OVERLAP
        longer = sa.and_(keys.c.is_signing, sa.or_(keys.c.expires.is_(None), keys.c.expires > end))
        self._write(keys.update().where(longer).values(expires=end), _signing_key())
        newest = sa.select(sa.func.max(keys.c.id).label("id")).where(keys.c.is_signing)
        return str(self._database.read(newest)[0]["id"])

    def prepare_tokens(self) -> None:
        """Make the first key that signs client tokens, if there is none. Raises LedgerError."""
        valid = sa.and_(
            keys.c.is_signing, keys.c.revoked.is_(None), sa.or_(keys.c.expires.is_(None), keys.c.expires > time.time())
        )
        self._write(_signing_key(), unless=sa.select(keys.c.id).where(valid))

    def _create(self, *others: sa.Update, **values: Any) -> str:
        prefix = "sk_{project}_" if values.get("project") else "nk_{pool}_" if values.get("is_node") else "ak_"
        secret = "".join(secrets.choice(BASE62) for _ in range(_SECRET_LENGTH))
        key = prefix.format(**values) + secret
        self._write(_new_key(self._digest(key), **values), *others)
        return key

    def _write(self, *statements: sa.Insert | sa.Update, unless: sa.Select[Any] | None = None) -> list[int]:
        """Change rows and mark them with a new version; return how many each has changed.

        `unless`: nothing is done if this finds something.
        """
        try:
            with self._database.engine.begin() as connection:
                # Another process that writes keys waits here, so that versions are committed in their order.
                version = int(connection.scalar(_VERSION.with_for_update()) or 0) + 1
                if unless is not None and connection.scalar(unless) is not None:
                    return []
                connection.execute(meta.update().where(meta.c.name == "keys_version").values(value=str(version)))
                counts = [connection.execute(each.values(changed=version)).rowcount for each in statements]
                self._database.announce_keys(connection)
        except sa.exc.DBAPIError as error:
            raise self._database.error(error) from None
        return counts

    def _digest(self, credential: str) -> bytes:
        digest = self._keyed.copy()
        digest.update(credential.encode("utf-8", "replace"))
        return digest.digest()


def _new_key(digest: bytes, **values: Any) -> sa.Insert:
    defaults = {"project": "", "pool": "", "is_node": False, "is_admin": False}
    return keys.insert().values(digest=digest, created=time.time(), **defaults | values)


def _signing_key() -> sa.Insert:
    """A row whose digest is a random text, from which the private key is derived."""
    return _new_key(secrets.token_bytes(32), is_signing=True)


def parse_scopes(text: str) -> tuple[str, ...]:
    """The scopes of a row."""
    return tuple(text.split(",")) if text else ()


def parse_limits(text: str) -> KeyLimits:
    """The limits of a row."""
    return msgspec.json.decode(text, type=KeyLimits) if text else KeyLimits()


def _key_row(row: Mapping[str, Any]) -> KeyRow:
    scopes, limits = parse_scopes(row["scopes"]), parse_limits(row["limits"])
    return KeyRow(**{**row, "id": str(row["id"]), "scopes": scopes, "limits": limits})
