"""From empty to the newest schema, and back."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

import migrations
from app import parts
from app.errors import DatabaseUnavailable
from app.settings import Settings
from app.store.tables import metadata
from tests.conftest import Servers


@pytest.fixture
def empty(servers: Servers) -> Iterator[str]:
    with servers.database(template=None) as url:
        yield url


def config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = url
    return config


async def schema(url: str) -> dict[str, list[str]]:
    """Everything that the catalogue says of our tables, as text."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("""
            SELECT table_name AS t, format('%s %s %s %s', column_name, data_type, is_nullable, column_default) AS what
            FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT conrelid::regclass::text, format('%s %s', conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT relname, array_to_string(reloptions, ',') FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reloptions IS NOT NULL
            ORDER BY 1, 2""")
    finally:
        await connection.close()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["t"], []).append(row["what"])
    return found


def test_from_empty_the_tables_are_those_of_the_code(empty: str) -> None:
    parts.migrate(Settings(database_url=empty))
    command.check(config(empty))  # raises where autogenerate finds a difference
    assert set(metadata.tables) <= set(asyncio.run(schema(empty)))


def test_drift_is_noticed(empty: str) -> None:
    parts.migrate(Settings(database_url=empty))

    async def drift() -> None:
        connection = await asyncpg.connect(empty)
        await connection.execute("ALTER TABLE saga DROP COLUMN notify_url")
        await connection.close()

    asyncio.run(drift())
    with pytest.raises(CommandError, match="New upgrade operations detected"):
        command.check(config(empty))


def test_down_to_nothing_and_up_again_is_the_same(empty: str) -> None:
    command.upgrade(config(empty), "head")
    first = asyncio.run(schema(empty))
    command.downgrade(config(empty), "base")
    assert set(asyncio.run(schema(empty))) == {"alembic_version"}
    command.upgrade(config(empty), "head")
    assert asyncio.run(schema(empty)) == first


def test_what_is_up_to_date_is_left_alone(empty: str) -> None:
    parts.migrate(Settings(database_url=empty))
    before = asyncio.run(schema(empty))
    parts.migrate(Settings(database_url=empty))
    assert asyncio.run(schema(empty)) == before


async def test_two_that_migrate_at_once_do_it_once(empty: str) -> None:
    environment = {**os.environ, "SAGA_DATABASE_URL": empty}
    command_line = [sys.executable, "-m", "app.cli", "migrate"]
    pipe = asyncio.subprocess.PIPE
    started = [
        await asyncio.create_subprocess_exec(*command_line, env=environment, stdout=pipe, stderr=pipe) for _ in range(2)
    ]
    said = [await process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert set(metadata.tables) <= set(await schema(empty))


@pytest.mark.slow
def test_a_migration_gives_up_rather_than_block_the_house(empty: str) -> None:
    """Somebody reads a table in a transaction that never ends."""
    parts.migrate(Settings(database_url=empty))

    async def hold_and_migrate() -> None:
        reader = await asyncpg.connect(empty)
        try:
            await reader.execute("BEGIN")
            await reader.fetch("SELECT * FROM saga")
            await asyncio.to_thread(command.downgrade, config(empty), "base")
        finally:
            await reader.close()

    with pytest.raises(Exception, match="lock timeout"):
        asyncio.run(hold_and_migrate())
    assert "saga" in asyncio.run(schema(empty))


def test_a_database_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        parts.migrate(Settings(database_url=f"postgresql://saga@/saga?host={tmp_path}"))
