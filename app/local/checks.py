"""What can be known before the start: it is looked at before anything is started, and told in a sentence."""

import time
from collections.abc import Mapping
from pathlib import Path

from app.local.errors import HouseError
from app.reach import NoAnswer, NoPort, ask_database, ask_redis, probe_port

_TICK_SECONDS = 0.03


def take_port(host: str, port: int, *, patience_seconds: float) -> int:
    """Find out whether the port can be had; 0 finds a free one. A killed house may need a moment to let go."""
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            return probe_port(host, port)
        except NoPort as error:
            if not error.taken or time.monotonic() > give_up:
                raise HouseError(str(error)) from error
        time.sleep(_TICK_SECONDS)


def find_sagas(sagas: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The directory of definitions: the one asked for, else that of the environment, else none."""
    if sagas is None and "SAGA_SAGAS_DIR" in environment:
        sagas = Path(environment["SAGA_SAGAS_DIR"])
    if sagas is None:
        return None
    if not sagas.is_dir():
        raise HouseError(f"There is no directory of definitions {sagas.absolute()}: choose another with --sagas.")
    return sagas.absolute()


def check_servers(environment: Mapping[str, str]) -> None:
    """Whether the servers that the environment points to answer."""
    try:
        if url := environment.get("SAGA_DATABASE_URL"):
            ask_database(url)
        if url := environment.get("SAGA_REDIS_URL"):
            ask_redis(url)
    except NoAnswer as error:
        raise HouseError(str(error)) from error
