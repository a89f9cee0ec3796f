import contextlib
import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rtcbridge.drivers.ledger import KeyStore, LedgerReader, migrations, open_store
from rtcbridge.drivers.ledger.schema import metadata
from rtcbridge.ports import Identity, SessionRow

FOLDER = Path(migrations.__file__).parent


def scripts():
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


def test_head_is_the_newest_migration():
    assert scripts().get_heads() == [migrations.HEAD]


@contextlib.contextmanager
def at_revision(url, revision):
    """A store as an older version of the program has left it."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        yield connection
    engine.dispose()


def test_migrations_lead_to_the_schema(store_url):
    with open_store(store_url) as database, database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        found = sa.inspect(connection)
        indexes = {index["name"]: index for table in metadata.tables for index in found.get_indexes(table)}
        made_of_unique = {name for name, index in indexes.items() if index.get("duplicates_constraint")}
        assert indexes.keys() - made_of_unique == {
            index.name for table in metadata.tables.values() for index in table.indexes
        }
        options = indexes["ix_sessions_open"]["dialect_options"]
        assert "ended IS NULL" in str(options[f"{connection.dialect.name}_where"])


@pytest.mark.parametrize("revision", [script.revision for script in scripts().walk_revisions()])
def test_every_migration_goes_up_from_every_older_one(store_url, revision):
    """A store left at each revision in turn opens, and keeps what it holds."""
    with at_revision(store_url, revision) as connection:
        connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('kept', 'yes')")
        connection.exec_driver_sql(
            "INSERT INTO sessions (id, pool, node, project, started, ended, reason)"
            " VALUES ('s1', 'p', 'n', 'TEST01', 1.5, NULL, '')"
        )
    with open_store(store_url) as database, database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT value FROM meta WHERE name = 'kept'").scalar() == "yes"
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        assert version == migrations.HEAD
        row = SessionRow(id="s1", pool="p", node="n", project="TEST01", started=1.5)
        assert LedgerReader(database).open_sessions() == [row]


def test_keys_of_the_first_revision_are_no_admins(store_url):
    digest = hashlib.blake2b(b"sk_TEST01_x", digest_size=32, key=b"\x5e" * 32, person=b"key").digest()
    with at_revision(store_url, "0001") as connection:
        connection.execute(sa.text("INSERT INTO meta VALUES ('secret', :secret)"), {"secret": "5e" * 32})
        connection.exec_driver_sql("INSERT INTO meta VALUES ('keys_version', '1')")
        connection.execute(
            sa.text(
                "INSERT INTO keys (digest, project, pool, is_node, created, changed)"
                " VALUES (:digest, 'TEST01', '', FALSE, 5.0, 1)"
            ),
            {"digest": digest},
        )
    with open_store(store_url) as database:
        keys = KeyStore(database)
        assert keys.identify("sk_TEST01_x") == Identity("1", project="TEST01")
        assert keys.identify_admin("sk_TEST01_x") is None
        (row,) = keys.keys()
        assert not row.is_admin
        assert keys.identify_admin(keys.create_admin_key()) == "2"
        keys.close()


def test_a_migration_that_is_interrupted_leaves_nothing(store_url, monkeypatch):
    """The whole opening is one transaction: a store is never half migrated."""
    monkeypatch.setattr("rtcbridge.drivers.ledger.database.secrets.token_hex", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_store(store_url)
    engine = sa.create_engine(store_url.replace("postgresql:", "postgresql+psycopg:"))
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    monkeypatch.undo()
    open_store(store_url).close()
