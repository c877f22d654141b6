"""What a part needs before it can start: settings, definitions, a port, Redis."""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.cli.output import Failure
from app.observability import configure_logging, log
from app.reach import NoAddress, NoAnswer, NoPort, ask_redis, probe_port
from app.registration import RegistrationFailed, read_folder
from app.settings import Settings, get_settings

REPEAT_SECONDS, LONGEST_REPEAT_SECONDS = 0.5, 5.0


def read_settings(**options: str | int | None) -> Settings:
    """The settings of this process: options, where given, in place of the environment's."""
    for name in [name for name, value in os.environ.items() if name.startswith("SAGA_") and not value]:
        del os.environ[name]  # as an empty line of an .env file means it
    for name, value in options.items():
        if value is not None:
            os.environ[f"SAGA_{name.upper()}"] = str(value)
    get_settings.cache_clear()
    try:
        return get_settings()
    except ValidationError as error:
        raise Failure("Settings are wrong:", faults=[_fault(each) for each in error.errors()]) from None


def _fault(error: Any) -> str:
    name = "_".join(str(part) for part in error["loc"]).upper()
    given = "" if _is_secret(str(error["loc"][0])) else f"={error['input']!s}"
    return f"SAGA_{name}{given}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _is_secret(name: str) -> bool:
    field = Settings.model_fields.get(name)
    return field is not None and "SecretStr" in str(field.annotation)


def check_sagas(folder: Path | None, services: Collection[str] | None) -> None:
    """Whether the directory of definitions can be registered. `services` are those that are registered already."""
    if folder is None:
        return
    try:
        read_folder(folder).definitions(services)
    except RegistrationFailed as error:
        raise Failure(
            f"The definitions in {folder} are refused:", faults=[str(each) for each in error.faults]
        ) from None


def check_port(host: str, port: int) -> None:
    """Whether uvicorn will get it: it would say so with less."""
    try:
        probe_port(host, port, host_option="--host or SAGA_HOST", port_option="--port or SAGA_PORT")
    except NoPort as error:
        raise Failure(str(error)) from None


def wait_for_redis(url: str) -> None:
    """Returns when it answers; says that it waits, and when that is over. Raises NoAddress."""
    delay, said = REPEAT_SECONDS, ""
    while True:
        try:
            ask_redis(url)
        except NoAddress:
            raise
        except NoAnswer as error:
            if not said:
                configure_logging()
            if str(error) != said:
                said = str(error)
                log.warning("%s Waiting for it.", said)
        else:
            if said:
                log.info("Redis answers.")
            return
        time.sleep(delay)
        delay = min(delay * 2, LONGEST_REPEAT_SECONDS)
