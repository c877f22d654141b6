"""The programs that the examples talk to, as child processes on loopback that never outlive their starter.

    python -m examples.processes order      # inventory, payment and order on ports 9001, 9002 and 9003
    python -m examples.processes payment    # localstripe on 9011, a mailbox on 9012, and a PostgreSQL
    python -m examples.processes choreography   # order on port 9003; inventory and payment only know events

The demonstration and the tests use the same functions, on ports that happen to be free.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from app.local.directory import RunningHouse
from app.local.logs import tail
from app.local.postgres import EmbeddedPostgres
from app.local.processes import Process, end, spawn

HERE = Path(__file__).resolve().parent
ROOT = Path("/")

START_SECONDS = 30
TICK_SECONDS = 0.02


class Program:
    """A Python program. It can be killed and started again at will."""

    def __init__(self, *argv: str | Path, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        """Runs `python argv`, with `env` added to our own environment. Does not start it."""
        self._argv = [sys.executable, *map(str, argv)]
        self._log, self._env, self._cwd = log, env or {}, cwd
        self._process: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it is ready. Does nothing where it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._process = spawn(self._argv, log=self._log, env=os.environ | self._env, cwd=self._cwd)
        give_up = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"{shlex.join(self._argv[1:])} did not start:\n{tail(self._log)}")
            time.sleep(TICK_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    def _is_ready(self) -> bool:
        return True  # it listens to nobody


class Server(Program):
    """A program that serves one port of 127.0.0.1.

    The port is bound here as well, but never listened on: while the program is down, connections are refused,
    and no other program is given the port meanwhile.
    """

    def __init__(
        self, *argv: str | Path, port: int = 0, data: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        """Runs `python argv --port PORT --data DATA`, or, where `env` says what else it needs, without `--data`.

        Port 0 is any that is free.
        """
        self._reserved = reserve(port)
        self.port: int = self._reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        more = ["--port", str(self.port)] + (["--data", str(data)] if env is None else [])
        super().__init__(*argv, *more, log=data / f"{self.port}.log", env=env, cwd=cwd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._reserved.close()

    def _is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def reserve(port: int) -> socket.socket:
    """A socket that keeps a loopback port for a child of ours, which will listen on it."""
    reserved = socket.socket()
    try:
        reserved.bind(("127.0.0.1", port))
    except OSError as error:
        reserved.close()
        raise RuntimeError(f"port {port} of 127.0.0.1: {error.strerror}") from error
    # Said only now, so that nobody shares what we were given; the child that says it too can bind the port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform != "linux":  # elsewhere it could not
        reserved.close()
    return reserved


@contextmanager
def order_services(data: Path, ports: Mapping[str, int] | None = None) -> Iterator[dict[str, Server]]:
    """`inventory`, `payment` and `order`, all running, with their ledgers in `data`."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                Server(HERE / "order/services.py", name, port=(ports or {}).get(name, 0), data=data)
            )
            for name in ("inventory", "payment", "order")
        }
        for server in servers.values():
            server.start()
        yield servers


@dataclass(frozen=True)
class PaymentServers:
    psp: Server
    smtp: Server
    ledger_url: str
    mail_directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the workers have to be told, since the adapters run in them."""
        return {
            "PAYMENT_PSP_URL": self.psp.url,
            "PAYMENT_SMTP_URL": f"smtp://127.0.0.1:{self.smtp.port}",
            "PAYMENT_LEDGER_URL": self.ledger_url,
        }


@contextmanager
def payment_servers(data: Path, psp_port: int = 0, smtp_port: int = 0) -> Iterator[PaymentServers]:
    """The provider, the mailbox and the ledger's database, all running, with what they keep in `data`.

    The ledger has a PostgreSQL of its own and not the orchestrator's: they are different firms.
    """
    with ExitStack() as stack:
        psp = Server(HERE / "payment/psp_server.py", port=psp_port, data=data / "psp")
        smtp = Server(HERE / "payment/smtp_server.py", port=smtp_port, data=data / "mail")
        postgres = EmbeddedPostgres(data / "postgres")
        for server in (psp, smtp, postgres):
            stack.enter_context(server)
            server.start()
        ledger_url = postgres.url_of("ledger")
        subprocess.run(
            [sys.executable, HERE / "payment/sagas/ledger.py"],
            env=os.environ | {"PAYMENT_LEDGER_URL": ledger_url},
            check=True,
        )
        yield PaymentServers(psp, smtp, ledger_url, data / "mail")


@dataclass(frozen=True)
class EventServices:
    inventory: Program
    payment: Program
    order: Server
    databases: Path
    """`inventory.sqlite`, `payment.sqlite` and `order.sqlite` are in it."""


@contextmanager
def event_services(data: Path, redis_url: str, port: int = 0) -> Iterator[EventServices]:
    """The services of examples/choreography, all running, with their databases in `data`. Customers come to `port`."""
    data.mkdir(parents=True, exist_ok=True)
    here = HERE / "choreography"
    environment = {"SAGA_REDIS_URL": redis_url}
    environment |= {
        f"{name.upper()}_DATABASE": f"sqlite:///{data / name}.sqlite" for name in ("inventory", "payment", "order")
    }

    def listener(name: str) -> Program:
        return Program(
            "-m", "saga_participant", "run", f"{name}:{name}", log=data / f"{name}.log", env=environment, cwd=here
        )

    with ExitStack() as stack:
        web = ("-m", "uvicorn", "order:app", "--log-level", "warning")
        order = Server(*web, port=port, data=data, env=environment, cwd=here)
        services = EventServices(listener("inventory"), listener("payment"), order, data)
        for program in (services.inventory, services.payment, services.order):
            stack.enter_context(program)
            program.start()
        yield services


def redis_of(house: Path) -> str:
    """Where the events are: SAGA_REDIS_URL, or else the Valkey of the house that runs on this directory."""
    if url := os.environ.get("SAGA_REDIS_URL"):
        return url
    if running := RunningHouse.of(house):
        return running.redis_url
    sys.exit(f"No house runs on {house}: start `saga up` here first, or set SAGA_REDIS_URL.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.processes", description=__doc__.partition("\n")[0])
    parser.add_argument("example", choices=("order", "payment", "choreography"))
    parser.add_argument("--data", type=Path, default=Path(".demo"), help="where they keep their data (./.demo)")
    arguments = parser.parse_args()
    data = arguments.data.absolute() / arguments.example
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    with contextlib.suppress(KeyboardInterrupt), ExitStack() as stack:
        if arguments.example == "order":
            ports = {"inventory": 9001, "payment": 9002, "order": 9003}
            for name, server in stack.enter_context(order_services(data, ports)).items():
                print(f"{name:10} {server.url}/ledger")
        elif arguments.example == "choreography":
            services = stack.enter_context(event_services(data, redis_of(Path(".saga")), port=9003))
            print(f"order      {services.order.url}/orders")
        else:
            servers = stack.enter_context(payment_servers(data, psp_port=9011, smtp_port=9012))
            print("Started. Where you start `saga up`, set first:")
            for name, value in servers.environment.items():
                print(f"export {name}={shlex.quote(value)}")
        print("Ctrl-C ends them.", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
