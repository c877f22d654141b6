"""Revisions of the schema: those that this program knows, and the one that the database has."""

from functools import lru_cache

import asyncpg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from app.store.database import Database, caused_by


@lru_cache
def known_revisions() -> tuple[str, ...]:
    """Newest last."""
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    return tuple(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())[::-1]


async def revision_of(database: Database) -> str | None:
    """None where it has never been migrated."""
    try:
        async with database.connect() as connection:
            found: str | None = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
    except Exception as error:
        if caused_by(error, asyncpg.UndefinedTableError):
            return None
        raise
    return found
