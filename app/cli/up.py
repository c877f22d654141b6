"""`saga up`, by itself: `app.local.up` must not be imported where metrics are shared between processes."""

import sys
from pathlib import Path
from typing import Final

import click

from app.cli.checks import check_sagas, read_settings
from app.local.up import run


@click.command
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="SAGA_HOST",
    show_default=True,
    show_envvar=True,
    help="Address on which the API listens.",
)
@click.option(
    "--port",
    type=int,
    default=8000,
    envvar="SAGA_PORT",
    show_default=True,
    show_envvar=True,
    help="Its port; 0 takes a free one.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(".saga"),
    show_default=True,
    help="Directory that keeps everything.",
)
@click.option(
    "--sagas",
    type=click.Path(path_type=Path),
    envvar="SAGA_SAGAS_DIR",
    show_envvar=True,
    help="Directory of definitions and services.yaml.",
)
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: by the number of cores]")
def up(host: str, port: int, data: Path, sagas: Path | None, workers: int | None) -> None:
    """Start everything on this machine, and end it with Ctrl-C.

    Starts PostgreSQL and Valkey (unless SAGA_DATABASE_URL and SAGA_REDIS_URL point to servers that already run),
    migrates the database, starts the API, the workers and beat, and starts again what dies. The data is kept in
    --data; credentials.json there holds the first API key and the password of the dashboard.
    """
    read_settings()  # what is wrong with them is said here, and not by each part in its log
    check_sagas(sagas if sagas is not None and sagas.is_dir() else None, None)
    sys.exit(run(host=host, port=port, data=data, sagas=sagas, workers=workers))


COMMANDS: Final[dict[str, click.Command]] = {"up": up}
