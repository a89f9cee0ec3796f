import hashlib
import sqlite3
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rtcbridge.drivers.ledger import Database, SqliteKeys, migrations
from rtcbridge.drivers.ledger.schema import metadata
from rtcbridge.ports import Identity

FOLDER = Path(migrations.__file__).parent


def scripts():
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


def test_head_is_the_newest_migration():
    assert scripts().get_heads() == [migrations.HEAD]


def test_migrations_lead_to_the_schema(tmp_path):
    with Database(tmp_path / "x.db") as database, database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        found = sa.inspect(connection)
        indexes = {index["name"] for table in metadata.tables for index in found.get_indexes(table)}
        assert indexes == {index.name for table in metadata.tables.values() for index in table.indexes}


def test_every_migration_goes_up_from_every_older_one(tmp_path):
    """A file left at each revision in turn opens, and keeps what it holds."""
    for script in scripts().walk_revisions():
        file = tmp_path / f"{script.revision}.db"
        engine = sa.create_engine(f"sqlite:///{file}")
        with engine.begin() as connection:
            from alembic import command

            config = Config()
            config.set_main_option("script_location", str(FOLDER))
            config.attributes["connection"] = connection
            command.upgrade(config, script.revision)
            connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('kept', 'yes')")
        engine.dispose()
        with Database(file) as database, database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'kept'").scalar() == "yes"
            version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            assert version == migrations.HEAD


def test_keys_of_the_first_revision_are_no_admins(tmp_path):
    file = tmp_path / "x.db"
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        from alembic import command

        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('secret', ?)", ("5e" * 32,))
        connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('keys_version', '1')")
        digest = hashlib.blake2b(b"sk_TEST01_x", digest_size=32, key=b"\x5e" * 32, person=b"key").digest()
        connection.exec_driver_sql(
            "INSERT INTO keys (digest, project, pool, is_node, created, changed) VALUES (?, 'TEST01', '', 0, 5.0, 1)",
            (digest,),
        )
    engine.dispose()
    with Database(file) as database:
        keys = SqliteKeys(database)
        assert keys.identify("sk_TEST01_x") == Identity("1", project="TEST01")
        assert keys.identify_admin("sk_TEST01_x") is None
        (row,) = keys.keys()
        assert not row.is_admin
        assert keys.identify_admin(keys.create_admin_key()) == "2"
        keys.close()


def test_a_migration_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    """The whole opening is one transaction: a file is never half migrated."""
    file = tmp_path / "x.db"
    monkeypatch.setattr("rtcbridge.drivers.ledger.database._initialise", lambda _: 1 / 0)
    try:
        Database(file)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("it was not interrupted")
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
