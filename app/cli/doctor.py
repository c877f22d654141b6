"""`saga doctor`: what keeps this house from working, and what to do about it.

It looks at what this machine can see: the environment, the house of `--data`, the servers, the API, the services. It
changes nothing, sends no participant more than a TCP handshake, and every look has a limit in time.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import click

from app.cli.checks import read_settings
from app.cli.output import TONES, Failure, clean, say, tinted, wrapped
from app.cli.server import START_ONE, Server, find_server, running_house
from app.cli.validate import check
from app.client import Unreachable
from app.errors import Problem
from app.instants import duration
from app.local.directory import RunningHouse
from app.reach import NoAnswer, ask_database, ask_redis, payload_keys, waiting_at_redis
from app.saga.yaml12 import load_yaml
from app.settings import Settings
from app.store.sealing import Sealer

CONNECT_SECONDS: Final = 3.0
OLDEST_POSTGRES: Final = 15
CLOCK_SECONDS: Final = 1.0
"""By more than so much this machine's clock should not differ from the database's."""
OVERDUE_SECONDS: Final = 15.0
"""Work that waits for longer has no worker, or no sweep."""


@dataclass(frozen=True)
class Finding:
    result: Literal["ok", "warn", "fail"]
    what: str
    says: str
    advice: str = ""


@click.command
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Look at the house of this directory.  [default: SAGA_URL, else .saga]",
)
@click.option("--sagas", type=click.Path(path_type=Path), help="Look at these definitions.  [default: SAGA_SAGAS_DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(data: Path | None, sagas: Path | None, as_json: bool) -> None:
    """Look at everything that the house needs, and say what is wrong and what to do.

    Exit code 1 where something has to be mended.
    """
    findings: list[Finding] = []
    for finding in examine(data, sagas):
        findings.append(finding)
        if not as_json:
            for line in _shown(finding):
                say(line)
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    sys.exit(1 if any(finding.result == "fail" for finding in findings) else 0)


def _shown(finding: Finding) -> Iterator[str]:
    first = f"{finding.result:4}  {finding.what:10}  "
    advice = f" -> {finding.advice}" if finding.advice else ""
    lines = wrapped(clean(finding.says + advice), first=first, rest=" " * len(first), width=80)
    yield tinted(lines[0][:4], TONES[finding.result]) + lines[0][4:]
    yield from lines[1:]


def examine(data: Path | None, sagas: Path | None) -> Iterator[Finding]:
    """One finding after the other, as they are made."""
    yield _python()
    settings, finding = _settings()
    yield finding
    yield _data_directory(data or Path(".saga"))
    house = _house(data)
    database_url = os.environ.get("SAGA_DATABASE_URL") or (house.database_url if house else None)
    redis_url = os.environ.get("SAGA_REDIS_URL") or (house.redis_url if house else None)
    yield from _database(database_url, settings)
    yield _redis(redis_url)
    folder = sagas or (settings.sagas_dir if settings is not None else None)
    yield from _definitions(folder)
    server, finding = _api(data)
    yield finding
    yield _workers(server, house, redis_url)
    yield from _services(server, folder)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", "python", version)


def _settings() -> tuple[Settings | None, Finding]:
    given = sorted(name for name in os.environ if name.startswith("SAGA_"))
    try:
        settings = read_settings()
    except Failure as failure:
        return None, Finding("fail", "settings", "; ".join(failure.faults), "correct these variables")
    return settings, Finding("ok", "settings", ", ".join(given) or "all are the defaults")


def _data_directory(data: Path) -> Finding:
    at = data.absolute()
    while not at.exists():
        at = at.parent
    if not os.access(at, os.W_OK | os.X_OK):
        return Finding("fail", "data", f"{at} cannot be written to", "give it to yourself, or choose another --data")
    if at != data.absolute():
        return Finding("ok", "data", f"{data} can be made")
    return Finding("ok", "data", f"{data} can be written to")


def _house(data: Path | None) -> RunningHouse | None:
    if data is None and os.environ.get("SAGA_URL"):
        return None
    with contextlib.suppress(Failure):
        return running_house(data or Path(".saga"))
    return None


_NO_SERVER: Final = (
    "no house runs here, and {variable} is not set: not looked at",
    "`saga up` brings its own, or set {variable}",
)


def _database(url: str | None, settings: Settings | None) -> Iterator[Finding]:
    if url is None:
        says, advice = (text.format(variable="SAGA_DATABASE_URL") for text in _NO_SERVER)
        yield Finding("warn", "database", says, advice)
        return
    try:
        database = ask_database(url)
    except NoAnswer as error:
        yield Finding("fail", "database", f"{error}", "start PostgreSQL, or correct SAGA_DATABASE_URL")
        return
    took = duration(database.round_trip_seconds)
    if int(database.version.split(".")[0]) < OLDEST_POSTGRES:
        says = f"PostgreSQL {database.version} is too old"
        yield Finding("fail", "database", says, f"{OLDEST_POSTGRES} or newer is needed")
    else:
        yield Finding("ok", "database", f"PostgreSQL {database.version} answers in {took}")
    if missing := database.missing:
        yield Finding("fail", "schema", missing.rstrip("."), "run `saga migrate`")
    elif database.newer:
        says = f"revision {database.revision} is of a newer version of this program"
        yield Finding("warn", "schema", says, "bring this program to the same version")
    else:
        yield Finding("ok", "schema", f"revision {database.revision} is the newest")
    ahead = database.ahead_seconds
    if abs(ahead) > CLOCK_SECONDS + database.round_trip_seconds:
        says = f"the database's clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield Finding("warn", "clock", says, "set both by NTP; sagas go by the database's")
    else:
        yield Finding("ok", "clock", f"the database's differs by {duration(abs(ahead))}")
    if not database.missing:
        yield from _payload_keys(url, settings)


def _payload_keys(url: str, settings: Settings | None) -> Iterator[Finding]:
    """Nothing where nothing is sealed."""
    try:
        used = payload_keys(url)
    except NoAnswer as error:
        yield Finding("warn", "keys", f"what payloads are sealed with could not be seen: {error}")
        return
    sealer = Sealer() if settings is None else Sealer.of(settings)
    unknown = sorted(used - set(sealer.known))
    if unknown:
        names = ", ".join(name or "(damaged)" for name in unknown)
        says = f"payloads are sealed with keys that SAGA_PAYLOAD_KEYS does not name here: {names}"
        yield Finding("warn", "keys", says, "add them; what they seal cannot be read, and its sagas are left alone")
    elif used or sealer.current is not None:
        now = sealer.current or "nothing"
        yield Finding("ok", "keys", f"payloads are sealed with {now}; the keys of those looked at are known")


def _redis(url: str | None) -> Finding:
    if url is None:
        says, advice = (text.format(variable="SAGA_REDIS_URL") for text in _NO_SERVER)
        return Finding("warn", "redis", says, advice)
    try:
        return Finding("ok", "redis", f"{ask_redis(url)} answers")
    except NoAnswer as error:
        return Finding("fail", "redis", f"{error}", "start Redis or Valkey, or correct SAGA_REDIS_URL")


def _definitions(folder: Path | None) -> Iterator[Finding]:
    if folder is None:
        yield Finding("ok", "sagas", "no directory of definitions is given (SAGA_SAGAS_DIR, --sagas)")
        return
    if not folder.is_dir():
        yield Finding("fail", "sagas", f"there is no directory {folder}", "correct SAGA_SAGAS_DIR")
        return
    checked = check(folder)
    wrong = [each for each in checked if not each["valid"]]
    if wrong:
        names = ", ".join(Path(each["file"]).name for each in wrong)
        yield Finding("fail", "sagas", f"{names} in {folder}: wrong", f"see `saga validate {folder}`")
    else:
        yield Finding("ok", "sagas", f"{len(checked)} files in {folder} are sound")


def _api(data: Path | None) -> tuple[Server | None, Finding]:
    try:
        server = find_server(data, timeout_seconds=5)
        ready = server.client.get("/readyz").object("status")
    except Failure as failure:
        return None, Finding("fail", "api", failure.message)
    except Unreachable as error:
        return None, Finding("fail", "api", f"{error}", START_ONE)
    except Problem as problem:
        return None, Finding("fail", "api", f"it is not ready: {problem.detail} ({problem.code})", "see its log")
    url = server.client.url
    try:
        server.client.get("/definitions")
    except (Problem, Unreachable) as error:
        advice = "set SAGA_API_KEY to a key with the scope read" if isinstance(error, Problem) else ""
        return None, Finding("fail", "api", f"{url} refuses us: {error}", advice)
    if ready.get("status") != "ready":
        worse = ", ".join(f"{name} {value}" for name, value in ready.items() if name != "status")
        return server, Finding("warn", "api", f"{url} is {ready.get('status')}: {worse}", "see the lines above")
    return server, Finding("ok", "api", f"{url} is ready and takes our key")


def _workers(server: Server | None, house: RunningHouse | None, redis_url: str | None) -> Finding:
    overdue = _overdue_seconds(server)
    if overdue is not None and overdue > OVERDUE_SECONDS:
        says = f"work has waited for {duration(overdue)}"
        return Finding("fail", "workers", says, "is a worker running, and beat? Start `saga worker` and `saga beat`")
    if house is not None:
        alive = [name for name, pid in house.parts.items() if name.startswith("worker") and _lives(pid)]
        if not alive:
            return Finding("fail", "workers", "none of this house lives", "see logs/ in its data directory")
        return Finding("ok", "workers", f"{len(alive)} alive, nothing is overdue")
    listening = _listeners(redis_url)
    if listening == 0:
        return Finding("warn", "workers", "none waits for work at Redis just now", "start one with `saga worker`")
    if listening:
        return Finding("ok", "workers", f"{listening} wait for work, nothing is overdue")
    if overdue is None:
        return Finding("warn", "workers", "whether any lives cannot be seen from here")
    return Finding("ok", "workers", "nothing is overdue")


def _overdue_seconds(server: Server | None) -> float | None:
    """The API's own measure of work that nobody has taken."""
    if server is None:
        return None
    with contextlib.suppress(Problem, Unreachable, ValueError):
        for line in server.client.get("/metrics").text.splitlines():
            if line.startswith("saga_oldest_overdue_seconds"):
                return float(line.split()[-1])
    return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _listeners(redis_url: str | None) -> int | None:
    """How many clients of Redis wait for messages; None where Redis does not say."""
    if redis_url is None:
        return None
    try:
        return waiting_at_redis(redis_url)
    except NoAnswer:
        return None


def _services(server: Server | None, folder: Path | None) -> Iterator[Finding]:
    known: dict[str, str | None] = {}
    if server is not None:
        with contextlib.suppress(Problem, Unreachable):
            known = {each["name"]: each.get("url") for each in server.client.get("/services").items("name")}
    elif folder is not None:
        known = _written(folder)
    urls = {name: url for name, url in known.items() if url}
    if not urls:
        yield Finding("ok", "services", "none is called over HTTP, as far as is known here")
        return
    with ThreadPoolExecutor(max_workers=min(len(urls), 16)) as threads:
        for (name, url), fault in zip(urls.items(), threads.map(_knock, urls.values()), strict=True):
            if fault is None:
                yield Finding("ok", "service", f"{name} listens at {url}")
            else:
                advice = "start it; until then its steps are repeated"
                yield Finding("warn", "service", f"{name} at {url} cannot be reached: {fault}", advice)


def _written(folder: Path) -> dict[str, str | None]:
    """The services of a folder, where no API can be asked."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = load_yaml((folder / "services.yaml").read_bytes()) or {}
        return {name: each.get("url") for name, each in content.items() if isinstance(each, dict)}
    return {}


def _knock(url: str) -> str | None:
    """Why a connection cannot be made; None where it can."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


COMMANDS: Final[dict[str, click.Command]] = {"doctor": doctor}
