"""Parts of the house as processes of their own, and a submitter for them.

with running("worker", settings, tmp_path, SAGA_CRASH_AT="perform.claimed#2") as worker:
    async with asyncio.timeout(30):
        assert await worker.ended() == -signal.SIGKILL
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from app.engine import Submission
from app.house import House
from app.saga.definition import Definition, parse_definition
from app.settings import Settings
from app.store.sagas import Saga
from tests.waiting import until

METRICS_PORT = 39_101
"""Away from a house that may be running on this machine."""


class Running:
    """A process that this test started. It is killed when the test has done with it, if it has not ended by itself."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self._log = process, log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ask_to_end(self) -> None:
        self.process.terminate()

    async def ended(self, seconds: float = 40) -> int:
        """Its exit code, negative for a signal."""
        try:
            await until(lambda: self.process.poll() is not None, seconds, "the end of a process")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None
        return self.process.returncode


@contextlib.contextmanager
def running(
    part: str, settings: Settings, directory: Path, *, command: Sequence[str] | None = None, **environment: str
) -> Iterator[Running]:
    """`saga worker` or `saga beat` with these settings; or another `command` of Python's."""
    log = directory / f"{part}-{len(list(directory.glob('*.log')))}.log"
    argv = [sys.executable, *(command or ("-m", "app.cli", part))]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, env=_environment(settings) | environment
        )
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait(10)


def _environment(settings: Settings) -> dict[str, str]:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for k, v in given.items()}
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SAGA_", "CELERY_"))}
    return {
        **outside,
        "SAGA_WORKER_METRICS_PORT": str(METRICS_PORT),
        **{f"SAGA_{name.upper()}": value for name, value in plain.items()},
    }


async def define(house: House, document: Mapping[str, Any]) -> tuple[Definition, int]:
    definition = parse_definition(dict(document), None)
    version, _ = await house.definitions.register(definition)
    return definition, version


async def submit(house: House, defined: tuple[Definition, int], key: str, given: Any = None) -> Saga:
    content = orjson.dumps({} if given is None else given)
    saga, _ = await house.engine.start(Submission("default", key, key.encode(), *defined, content, {}))
    return saga


async def until_at_rest(house: House, ids: Sequence[str], seconds: float = 30) -> dict[str, Saga]:
    found: dict[str, Saga] = {}

    async def all_rest() -> bool:
        for saga_id in ids:
            if saga_id not in found and (saga := await house.engine.load(saga_id)).state.at_rest:
                found[saga_id] = saga
        return len(found) == len(ids)

    try:
        await until(all_rest, seconds, "the rest of every saga")
    except AssertionError as error:
        left = [(await house.engine.load(i)).state for i in ids if i not in found]
        raise AssertionError(f"{error}; {len(left)} of {len(ids)} are left: {left[:2]}") from None
    return found
