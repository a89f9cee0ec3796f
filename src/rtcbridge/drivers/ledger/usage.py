"""What projects have used: sessions and their seconds in a period, out of the ledger."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from rtcbridge.drivers.ledger.database import Database
from rtcbridge.drivers.ledger.schema import sessions

_PATIENCE = 600.0  # seconds: a large ledger is read from end to end


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one project has used in a period.

    Attributes:
        project: its name.
        sessions: those that ran at some time in the period.
        open: those of them that have not ended.
        seconds: how long they ran in the period, in all.
    """

    project: str
    sessions: int = 0
    open: int = 0
    seconds: float = 0.0


def usage(database: Database, since: float, until: float, *, project: str = "") -> Sequence[Usage]:
    """Add up a period, by project. A session that reaches beyond it counts with what lies in it.

    The figures of periods that follow one another add up to those of the whole. An open session counts up to the end
    of the period, which must not lie in the future.

    Args:
        database: an open store.
        since: the first moment, in Unix seconds.
        until: the moment that follows the last.
        project: only this one; it is named even if it used nothing.

    Raises:
        LedgerError: the store cannot be read.
    """
    table = sessions.c
    begin = sa.case((table.started < since, since), else_=table.started)
    end = sa.case((table.ended < until, table.ended), else_=until)
    # A clock that was set back may have let a session end before it began.
    seconds = sa.case((end > begin, end - begin), else_=0.0)
    query = (
        sa.select(
            table.project,
            sa.func.count().label("sessions"),
            sa.func.sum(sa.case((table.ended.is_(None), 1), else_=0)).label("open"),
            sa.func.sum(seconds).label("seconds"),
        )
        .where(table.project == project if project else table.project != "")
        .where(table.started < until)
        .where(sa.or_(table.ended.is_(None), table.ended > since, table.started >= since))
        .group_by(table.project)
        .order_by(table.project)
    )
    rows = [Usage(**row) for row in database.read(query, patience=_PATIENCE)]
    return rows or ([Usage(project=project)] if project else [])
