"""What `saga keys rotate-payloads` does."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import asyncpg
import click

from app import parts
from app.cli.checks import read_settings
from app.cli.output import Failure, say
from app.cli.server import DEFAULT_DATA, running_house
from app.reach import NoAnswer, ask_database
from app.settings import PLAIN, Settings
from app.store.database import CONNECT_SECONDS, plain_url
from app.store.rotation import Rotated, rotate
from app.store.sealing import Sealer

TELL_SECONDS: Final = 5.0


def rotate_payloads(batch: int, data: Path | None) -> int:
    """The exit code: 1 where something is left that another key is needed for."""
    settings = read_settings()
    sealer = Sealer.of(settings)
    url = _database_url(settings, data)
    try:
        if missing := ask_database(url).missing:
            raise Failure(f"{missing} Run `saga migrate`.", exit_code=parts.EX_UNAVAILABLE)
    except NoAnswer as error:
        raise Failure(f"{error}", exit_code=parts.EX_UNAVAILABLE) from None
    try:
        rotated = asyncio.run(_rotate(url, sealer, batch))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        said = str(error) or type(error).__name__
        raise Failure(f"The database has broken off: {said}. Start the command again, it goes on.") from None
    return _report(sealer, rotated)


def _database_url(settings: Settings, data: Path | None) -> str:
    if data is None and os.environ.get("SAGA_DATABASE_URL"):
        return settings.database_url
    house = running_house(data or DEFAULT_DATA)
    if house is None and data is not None:
        raise Failure(f"No house runs on {data}: its database is there only while it runs.")
    return settings.database_url if house is None else house.database_url


async def _rotate(url: str, sealer: Sealer, batch: int) -> Rotated:
    told_at = time.monotonic()

    def tell(table: str, done: int) -> None:
        nonlocal told_at
        if done and time.monotonic() - told_at > TELL_SECONDS:
            told_at = time.monotonic()
            click.echo(f"{table}: {done:,} so far", err=True)

    connection = await asyncpg.connect(
        plain_url(url), timeout=CONNECT_SECONDS, server_settings={"application_name": "saga-keys"}
    )
    try:
        return await rotate(connection, sealer, batch, tell)
    finally:
        await connection.close()


def _report(sealer: Sealer, rotated: Rotated) -> int:
    """Says what is under which key now; the exit code."""
    now = PLAIN if sealer.current is None else f"under the key {sealer.current}"
    say(f"{rotated.resealed:,} rows were written anew; what is written is {now}.")
    unused = [key for key in sealer.known if key != sealer.current and not rotated.used[key]]
    if unused:
        say(f"No row needs these keys any more, so SAGA_PAYLOAD_KEYS may do without: {', '.join(unused)}.")
    left = {key: number for key, number in rotated.used.items() if key != sealer.current}
    for key, number in sorted(left.items(), key=str):
        under = "plain" if key is None else f"under the key {key}" if key else "damaged"
        click.echo(f"{number:,} rows are still {under}.", err=True)
    for sentence in rotated.unreadable.values():
        click.echo(sentence, err=True)
    if left and not rotated.unreadable:
        click.echo("Somebody held them, or writes by an older setting: start the command again.", err=True)
    return 1 if left or rotated.unreadable else 0
