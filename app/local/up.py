"""`saga up`: the whole house on one machine, from nothing to a first saga.

One process supervises PostgreSQL and Valkey (embedded, unless the environment points to servers that already
run), the API, the workers and beat. Promised here:

* A part that dies is started again (see `supervisor`).
* Ctrl-C and SIGTERM end the parts in the order in which they need each other, and keep the data. A second one
  ends them at once.
* Nothing outlives the supervisor, even where it is killed (on Linux; see `processes`), and no second one works
  on the same directory.
* What can be known before the start (the port, the directories, the servers pointed to) is checked before
  anything is started, and told in a sentence with exit code 1.

It is no cluster manager.
"""

import contextlib
import http.client
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from prometheus_client.multiprocess import mark_process_dead

from app.local import logs
from app.local.bell import Bell
from app.local.checks import check_servers, find_sagas, take_port
from app.local.credentials import credentials
from app.local.directory import RunningHouse, fresh_logs, fresh_metrics, notice_in, take
from app.local.errors import EmbeddedError, HouseError
from app.local.postgres import EmbeddedPostgres
from app.local.program import Program
from app.local.server import EmbeddedServer
from app.local.supervisor import Part, Say, Supervisor
from app.local.valkey import EmbeddedValkey
from app.local.welcome import welcome

_WORKER_GRACE_SECONDS, _SERVER_GRACE_SECONDS, _GRACE_SECONDS = 10.0, 10.0, 5.0
_PORT_PATIENCE_SECONDS = 2.0

PROGRAM = [sys.executable, "-P", "-m", "app.cli"]
"""Our own command line. `-P`: a package `app` in the user's directory must not take the place of ours."""


def run(
    host: str = "127.0.0.1",
    port: int = 8000,
    data: Path = Path(".saga"),
    sagas: Path | None = None,
    workers: int | None = None,
) -> int:
    """Run the house until somebody ends it. Its exit code: 0 when asked to end, 1 when it cannot stand."""
    try:
        with Bell() as bell:
            _keep_house(bell, _say, host=host, port=port, data=data.absolute(), sagas=sagas, workers=workers)
    except (HouseError, EmbeddedError) as error:
        _say(f"Error: {error}", err=True)
    except OSError as error:
        _say(f"Error: The data directory {data} cannot be used: {error.strerror} ({error.filename}).", err=True)
    else:
        return 0
    return 1


def _say(line: str, *, err: bool = False) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the house is not
        click.echo(line, err=err)


def _keep_house(
    bell: Bell, say: Say, *, host: str, port: int, data: Path, sagas: Path | None, workers: int | None
) -> None:
    began = time.monotonic()
    given = {name: value for name, value in os.environ.items() if value}
    sagas = find_sagas(sagas, given)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, take(data))
        port = take_port(host, port, patience_seconds=_PORT_PATIENCE_SECONDS if notice_in(data).exists() else 0)
        check_servers(given)
        log_of = fresh_logs(data)
        metrics = fresh_metrics(data)
        servers = _servers(data, given, log_of)
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"
        environment = {
            "SAGA_PUBLIC_URL": url,
            **given,
            **{variable: server.url for variable, server in servers.items()},
            **credentials(data, given),
            **({} if sagas is None else {"SAGA_SAGAS_DIR": str(sagas)}),
            "SAGA_HOST": host,
            "SAGA_PORT": str(port),
            "SAGA_METRICS_DIR": str(metrics),
            "PYTHONUNBUFFERED": "1",
            **_path_to_ourselves(given),
        }

        def program(name: str, *arguments: str, ready: Callable[[], bool] | None = None) -> Program:
            return Program(name, [*PROGRAM, *arguments], log=log_of(name), env=environment, ready=ready)

        numbers = range(1, (workers or _workers_by_default()) + 1)
        parts = _Parts(
            servers=list(servers.values()),
            api=program("api", "api", "--host", host, "--port", str(port), ready=lambda: _answers(near, port)),
            workers=[program(f"worker-{number}", "worker") for number in numbers],
            beat=program("beat", "beat"),
        )
        house = RunningHouse(
            url=url,
            pid=os.getpid(),
            started_at=datetime.now(UTC).isoformat(),
            ready=False,
            database_url=environment["SAGA_DATABASE_URL"],
            redis_url=environment["SAGA_REDIS_URL"],
        )

        def changed(pids: dict[str, int]) -> None:
            house.parts = pids
            house.tell(data)

        def buried(pid: int) -> None:
            mark_process_dead(pid, str(metrics))  # type: ignore[no-untyped-call]

        supervisor = Supervisor(bell, say, changed=changed, buried=buried)
        stack.callback(notice_in(data).unlink, missing_ok=True)
        stack.callback(supervisor.bring_down, parts.in_order_of_their_end())
        if (
            supervisor.bring_up(parts.servers)
            and _migrate(supervisor, say, program("migrate", "migrate"))
            and supervisor.bring_up([parts.api, *parts.workers, parts.beat])
        ):
            house.ready = True
            house.tell(data)
            say(welcome(url, data, sagas, time.monotonic() - began))
            supervisor.watch()
        say("Ending: what the workers have begun is finished first. Ctrl-C again ends it at once.")
    say(f"Ended. The data is kept in {data}.")


@dataclass(frozen=True)
class _Parts:
    servers: list[EmbeddedServer]
    api: Program
    workers: list[Program]
    beat: Program

    def in_order_of_their_end(self) -> list[tuple[float, Sequence[Part]]]:
        """With the seconds that each has."""
        return [
            (_GRACE_SECONDS, [self.beat]),
            (_WORKER_GRACE_SECONDS, self.workers),
            (_GRACE_SECONDS, [self.api]),
            *[(_SERVER_GRACE_SECONDS, [server]) for server in reversed(self.servers)],
        ]


def _servers(data: Path, given: Mapping[str, str], log_of: Callable[[str], Path]) -> dict[str, EmbeddedServer]:
    """The servers that are needed, by the variable that would point to another."""
    servers: dict[str, EmbeddedServer] = {}
    if "SAGA_DATABASE_URL" not in given:
        servers["SAGA_DATABASE_URL"] = EmbeddedPostgres(data / "postgres", log=log_of("postgres"))
    if "SAGA_REDIS_URL" not in given:
        servers["SAGA_REDIS_URL"] = EmbeddedValkey(data / "valkey", log=log_of("valkey"))
    return servers


def _migrate(supervisor: Supervisor, say: Say, migrate: Program) -> bool:
    """False when the end was asked for before it was done."""
    began = time.monotonic()
    code = supervisor.run(migrate)
    if code:
        raise HouseError(f"The database was not migrated. The end of {migrate.log}:\n{logs.tail(migrate.log, 15)}")
    if code == 0:
        say(f"Database migrated in {time.monotonic() - began:.1f} s.")
    return code == 0


def _answers(host: str, port: int) -> bool:
    """Whether `GET /readyz` says 200."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _path_to_ourselves(environment: Mapping[str, str]) -> dict[str, str]:
    """Children run this very `app`, also where it runs from a source tree that is not installed."""
    root = Path(__file__).parents[2]
    if root.name in {"site-packages", "dist-packages"}:
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [environment.get("PYTHONPATH")])])}


def _workers_by_default() -> int:
    """One on a small machine, where API, PostgreSQL and Valkey need the other core; at most four."""
    cores = os.cpu_count() or 1
    return 1 if cores <= 2 else min(4, cores)
