"""What a process depends on: PostgreSQL, Redis, a port. Whether it can be had, in sentences without passwords."""

import asyncio
import errno
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.store.rotation import sampled_keys
from app.store.schema import known_revisions

ANSWER_SECONDS = 5.0


class NoAnswer(Exception):  # noqa: N818 - a condition
    """A server that does not answer, or not to us; a sentence without its password."""


class NoAddress(NoAnswer):
    """No server can ever answer there."""


class NoPort(Exception):  # noqa: N818 - a condition
    """A port that cannot be listened on; a sentence that names it."""

    def __init__(self, sentence: str, *, taken: bool = False) -> None:
        super().__init__(sentence)
        self.taken = taken


def probe_port(host: str, port: int, *, host_option: str = "--host", port_option: str = "--port") -> int:
    """A port that can be listened on: this one, or for 0 a free one. Raises NoPort, which names the options."""
    if not 0 <= port < 65_536:  # getaddrinfo would take it modulo that
        raise NoPort(f"There is no port {port}: choose one up to 65535 with {port_option}.")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(addresses[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API's own socket has it
            probe.bind(addresses[0][4])
            return int(probe.getsockname()[1])
    except (socket.gaierror, UnicodeError):
        raise NoPort(f"Nothing is known of a host {host}: choose another with {host_option}.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NoPort(f"Port {port} of {host} is taken: choose another with {port_option}.", taken=True) from None
        raise NoPort(f"Port {port} of {host} cannot be used: {error.strerror or error}.") from None


# --- PostgreSQL -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnsweringDatabase:
    version: str
    """Of PostgreSQL."""
    ahead_seconds: float
    """Of its clock, compared with this machine's."""
    round_trip_seconds: float
    revision: str | None
    """Of the schema; None where there is none."""
    known: tuple[str, ...]
    """The revisions of the schema that this version of the program knows, newest last."""

    @property
    def missing(self) -> str | None:
        """What has to be migrated; None also where the schema is newer than the program."""
        if self.revision is None:
            return "The database has not been migrated."
        if self.revision in self.known[:-1]:
            return f"The database is at revision {self.revision}, and {self.known[-1]} is needed."
        return None

    @property
    def newer(self) -> bool:
        """Whether a newer version of the program has migrated it."""
        return self.revision is not None and self.revision not in self.known


def ask_database(url: str) -> AnsweringDatabase:
    """Raises NoAnswer."""

    async def ask() -> tuple[str, float, float, str | None]:
        connection = await asyncpg.connect(plain_url(url), timeout=ANSWER_SECONDS, command_timeout=ANSWER_SECONDS)
        try:
            sent = time.monotonic()
            before = datetime.now(UTC)
            now = await connection.fetchval("SELECT clock_timestamp()")
            took = time.monotonic() - sent
            ahead = (now - before).total_seconds() - took / 2
            version = connection.get_server_version()
            exists = await connection.fetchval("SELECT to_regclass('alembic_version')")
            found = await connection.fetchval("SELECT version_num FROM alembic_version") if exists else None
            return f"{version.major}.{version.minor}", ahead, took, found
        finally:
            await connection.close(timeout=ANSWER_SECONDS)

    try:
        version, ahead, took, revision = asyncio.run(ask())
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _no_answer("PostgreSQL", "SAGA_DATABASE_URL", url, error) from None
    return AnsweringDatabase(version, ahead, took, revision, known_revisions())


def payload_keys(url: str) -> set[str]:
    """Ids of keys that payloads there are sealed with, as far as a look at some of them tells. Raises NoAnswer."""

    async def ask() -> set[str]:
        connection = await asyncpg.connect(plain_url(url), timeout=ANSWER_SECONDS, command_timeout=ANSWER_SECONDS)
        try:
            return await sampled_keys(connection)
        finally:
            await connection.close(timeout=ANSWER_SECONDS)

    try:
        return asyncio.run(ask())
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _no_answer("PostgreSQL", "SAGA_DATABASE_URL", url, error) from None


def plain_url(url: str) -> str:
    """As asyncpg reads it, whichever driver it names."""
    return re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", url)


# --- Redis ------------------------------------------------------------------------------------------------------


def ask_redis(url: str) -> str:
    """What it is, and its version. Raises NoAnswer."""
    about: dict[str, Any] = _of_redis(url, lambda client: client.info("server") if client.ping() else {})
    if "valkey_version" in about:
        return f"Valkey {about['valkey_version']}"
    return f"Redis {about.get('redis_version', '')}".strip()


def waiting_at_redis(url: str) -> int:
    """How many clients wait there for messages, as workers do. Raises NoAnswer."""
    clients: list[dict[str, str]] = _of_redis(url, lambda client: client.client_list())
    return sum(each.get("cmd", "").startswith("brpop") for each in clients)


def _of_redis(url: str, ask: Callable[[Any], Any]) -> Any:
    try:
        with redis.Redis.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return ask(client)
    except (OSError, ValueError, redis.RedisError) as error:
        raise _no_answer("Redis", "SAGA_REDIS_URL", url, error) from None


def _no_answer(title: str, variable: str, url: str, error: Exception) -> NoAnswer:
    where, password = _place(url)
    reason = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split())) or type(error).__name__
    if isinstance(error, TimeoutError):
        reason = f"nothing came for {ANSWER_SECONDS:g} s"
    if where is None or isinstance(error, ValueError):
        # What is not understood is not repeated: it may hold the password in the wrong place.
        advice = "a special character in a password is written as %40"
        return NoAddress(f"{variable} is not an address of {title} ({advice}).")
    if password:
        reason = reason.replace(password, "...")
    return NoAnswer(f"{title} at {where} ({variable}) does not answer: {reason.rstrip('.')}.")


def _place(url: str) -> tuple[str | None, str | None]:
    """Host, port and path of an address, and the password that stands in it; None where it cannot be read."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or parse_qs(parts.query).get("host", [""])[0], parts.port
    except ValueError:
        return None, None
    if not parts.scheme or "//" not in url:
        return None, None
    return (host + (f":{port}" if port else "") + parts.path) or parts.scheme, parts.password
