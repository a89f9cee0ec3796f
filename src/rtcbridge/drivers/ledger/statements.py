"""What the ledger writes, in the dialect of its store. Each statement may be run again with the same rows."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import nodes, overrides, sessions


class Statement:
    """A statement of SQLAlchemy's, compiled once and run with plain tuples: half the cost of a row.

    Attributes:
        names: of the values, in their order.
    """

    def __init__(self, database: Database, statement: sa.Insert | sa.Delete) -> None:
        """Compile it for a store."""
        compiled = database.compile(statement)
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        self._sql = str(compiled)
        self.names = tuple(compiled.positiontup or ())

    def run(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Run it for all rows, each with its values in the order of `names`."""
        if rows:
            connection.exec_driver_sql(self._sql, rows)


class Statements:
    """All that the ledger writes."""

    def __init__(self, database: Database) -> None:
        """Compile them for a store."""
        self.save_node = Statement(database, _upsert(database, nodes, "id", fence="fence"))
        self.delete_node = Statement(database, nodes.delete().where(nodes.c.id == sa.bindparam("node")))
        self.save_override = Statement(database, _upsert(database, overrides, "pool"))
        self.delete_override = Statement(database, overrides.delete().where(overrides.c.pool == sa.bindparam("name")))
        self.start_session = Statement(database, _start(database))
        self.end_session = Statement(database, _end(database))


def _upsert(database: Database, table: sa.Table, key: str, fence: str = "") -> sa.Insert:
    """Insert rows of a table; those that are there have all their columns replaced, unless their fence is higher."""
    new = database.insert(table)
    moved: Iterable[str] = (column.name for column in table.c if column.name != key)
    changes = {name: new.excluded[name] for name in moved}
    where = table.c[fence] <= new.excluded[fence] if fence else None
    return new.on_conflict_do_update(index_elements=[key], set_=changes, where=where)


def _start(database: Database) -> sa.Insert:
    """Insert starts. A second one only moves the session; one that comes after its end completes the row."""
    new = database.insert(sessions)
    early = sessions.c.project == sa.literal_column("''")  # and no parameter: the rows alone are those
    ended = sessions.c.ended.is_not(None)
    changes = {
        "pool": new.excluded.pool,
        "node": new.excluded.node,
        "project": sa.case((early, new.excluded.project), else_=sessions.c.project),
        "started": sa.case((early, new.excluded.started), else_=sessions.c.started),
        "ended": sa.case((ended, sessions.c.ended), else_=new.excluded.ended),
        "reason": sa.case((ended, sessions.c.reason), else_=new.excluded.reason),
        "bounds": sa.case((early, new.excluded.bounds), else_=sessions.c.bounds),
    }
    return new.on_conflict_do_update(index_elements=["id"], set_=changes)


def _end(database: Database) -> sa.Insert:
    """End sessions that have not ended.

    With several bridges, an end may be written before the start that another bridge still has to write. It is then
    kept in a row without a project, which no reader takes for a session.
    """
    new = database.insert(sessions)
    changes = {"ended": new.excluded.ended, "reason": new.excluded.reason}
    return new.on_conflict_do_update(index_elements=["id"], set_=changes, where=sessions.c.ended.is_(None))
