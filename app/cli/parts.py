"""The parts of the house alone: `saga api`, `saga worker`, `saga beat`, `saga migrate`.

Each looks at what it needs before it starts, and says in a sentence what is missing.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import click
from sqlalchemy.exc import DBAPIError

from app import parts
from app.cli.checks import check_port, check_sagas, read_settings, wait_for_redis
from app.cli.output import Failure
from app.errors import DatabaseUnavailable
from app.reach import AnsweringDatabase, NoAddress, NoAnswer, ask_database
from app.settings import Settings
from app.store.database import Database
from app.store.services import Services


@click.command
@click.option("--host", help="Address on which it listens.  [default: SAGA_HOST, else 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.  [default: SAGA_PORT, else 8000]")
def api(host: str | None, port: int | None) -> None:
    """Run the HTTP API alone, as in production. Settings come from SAGA_* variables."""
    settings = read_settings(host=host, port=port)
    _check_database(settings)
    if settings.sagas_dir is not None:
        check_sagas(settings.sagas_dir, asyncio.run(_registered(settings)))
    check_port(settings.host, settings.port)
    _run(lambda: parts.api(settings))


@click.command
@click.option("--queues", help="Only these queues, separated by commas.  [default: all]")
def worker(queues: str | None) -> None:
    """Run one worker process alone, as in production: it carries out the steps and compensations.

    Any number may run. It waits where Redis does not answer yet.
    """
    settings = read_settings()
    _check_database(settings)
    _wait_for_redis(settings)
    _run(lambda: parts.worker(settings, queues=queues))


@click.command
def beat() -> None:
    """Run beat alone, as in production: it starts a sweep every SAGA_SWEEP_INTERVAL seconds.

    One is enough, two do no harm. It waits where Redis does not answer yet.
    """
    settings = read_settings()
    _check_database(settings)
    _wait_for_redis(settings)
    _run(lambda: parts.beat(settings))


@click.command
def migrate() -> None:
    """Bring the database to the newest schema. Running it again changes nothing."""
    settings = read_settings()
    if (database := _ask(settings)).newer:
        raise Failure(f"{_NEWER.format(database.revision)}: it can only be migrated by that one.")
    try:
        _run(lambda: parts.migrate(settings))
    except DBAPIError as error:
        raise Failure(f"The database does not let itself be migrated: {error.orig}") from None
    click.echo(f"The database is at revision {_ask(settings).revision}.")


COMMANDS: Final[dict[str, click.Command]] = {"api": api, "worker": worker, "beat": beat, "migrate": migrate}


_NEWER: Final = "The database is at revision {}, which belongs to a newer version of this program"


def _check_database(settings: Settings) -> None:
    database = _ask(settings)
    if missing := database.missing:
        raise Failure(f"{missing} Run `saga migrate`.", exit_code=parts.EX_UNAVAILABLE)
    if database.newer:  # as while the machines of a house are brought to a new version one after the other
        click.echo(f"Warning: {_NEWER.format(database.revision)}.", err=True)


def _ask(settings: Settings) -> AnsweringDatabase:
    try:
        return ask_database(settings.database_url)
    except NoAnswer as error:
        raise Failure(f"{error}", exit_code=parts.EX_UNAVAILABLE) from None


async def _registered(settings: Settings) -> set[str]:
    """Names of the services."""
    database = Database(settings.database_url)
    try:
        return set(await Services(database).read())
    finally:
        await database.close()


def _wait_for_redis(settings: Settings) -> None:
    try:
        wait_for_redis(settings.redis_url)
    except NoAddress as error:
        raise Failure(f"{error}", exit_code=parts.EX_UNAVAILABLE) from None


def _run(part: Callable[[], None]) -> None:
    try:
        part()
    except DatabaseUnavailable as error:
        raise Failure(f"{error}", exit_code=parts.EX_UNAVAILABLE) from None
