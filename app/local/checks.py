"""What can be known before the start: it is looked at before anything is started, and told in a sentence."""

import asyncio
import errno
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.local.errors import HouseError

_SERVER_SECONDS = 5.0
_TICK_SECONDS = 0.03


def take_port(host: str, port: int, *, patience_seconds: float) -> int:
    """Find out whether the port can be had; 0 finds a free one. A killed house may need a moment to let go."""
    if not 0 <= port < 65_536:  # getaddrinfo would take it modulo that
        raise HouseError(f"There is no port {port}: choose one up to 65535 with --port.")
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            with socket.socket(addresses[0][0], socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API's own socket has it
                probe.bind(addresses[0][4])
                return int(probe.getsockname()[1])
        except (socket.gaierror, UnicodeError):
            raise HouseError(f"Nothing is known of a host {host}: choose another with --host.") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise HouseError(f"Port {port} of {host} cannot be used: {error.strerror}.") from error
            if time.monotonic() > give_up:
                raise HouseError(f"Port {port} of {host} is taken: choose another with --port.") from error
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
    if url := environment.get("SAGA_DATABASE_URL"):
        _check_database(url)
    if url := environment.get("SAGA_REDIS_URL"):
        _check_redis(url)


def _check_database(url: str) -> None:
    async def ask() -> None:
        plain = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", url)  # whichever driver it names
        connection = await asyncpg.connect(plain, timeout=_SERVER_SECONDS)
        await connection.close(timeout=_SERVER_SECONDS)

    try:
        asyncio.run(ask())
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HouseError(_no_answer("PostgreSQL", "SAGA_DATABASE_URL", url, error)) from error


def _check_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(
            url,
            socket_timeout=_SERVER_SECONDS,
            socket_connect_timeout=_SERVER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()
    except (OSError, ValueError, redis.RedisError) as error:
        raise HouseError(_no_answer("Redis", "SAGA_REDIS_URL", url, error)) from error


def _no_answer(title: str, variable: str, url: str, error: Exception) -> str:
    where = re.sub("//.*@", "//", url).partition("?")[0]  # never the password
    reason = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split())) or type(error).__name__
    if isinstance(error, ValueError):  # it quotes what it does not understand, and that may be the password
        reason = "this is no such address (a special character in a password is written as %40)"
    return f"{title} at {where} ({variable}) does not answer: {reason.rstrip('.')}."
