"""Runs migrations, each with a lock timeout: a migration gives up rather than block the house."""

import asyncio

from alembic import context
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.settings import get_settings
from app.store.tables import metadata

LOCK_TIMEOUT = "5s"


def run(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        # Two that migrate at once: the second waits for the first and finds nothing to do. The lock is the session's,
        # since each migration has a transaction of its own.
        connection.execute(text("SELECT pg_advisory_lock(hashtext('saga migrations'))"))
        context.run_migrations()


async def connect_and_run() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), connect_args={"timeout": 5})
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(connect_and_run())
