"""`saga up` as a process, with dummies as API, workers and beat."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from app.local.directory import RunningHouse

from .watching import wait_until

ROOT = Path(__file__).parents[2]

DUMMY = """
import json, os, pathlib, signal, sys
role, notes = sys.argv[1], pathlib.Path(os.environ["DUMMY_NOTES"])
def note(word):
    with notes.open("a") as file:
        file.write(f"{role} {word}\\n")
def end(*_):
    note("ends")
    sys.exit(0)
print("dummy", role, flush=True)
if role == os.environ.get("DUMMY_WRONG"):
    sys.exit("a mistake in the settings")
if role == "migrate":
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if role == os.environ.get("DUMMY_DEAF") else end)
told = notes.parent / f"{role}.{os.getpid()}"
told.write_text(json.dumps({n: v for n, v in os.environ.items() if n.startswith("SAGA_")}))
told.rename(notes.parent / f"{role}.json")
if role == "api":
    import http.server
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if "DUMMY_UNREADY" in os.environ else 200)
            self.end_headers()
    host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
    http.server.HTTPServer((host, int(port)), Answer).serve_forever()
while True:
    signal.pause()
"""

DRIVER = """
import json, pathlib, signal, sys
from app.local import program, up
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests under nohup means the tests
program._SETTLED_SECONDS = 0.1  # a dummy makes no mistakes that show themselves later
up.PROGRAM[:] = [sys.executable, "-S", sys.argv[1]]
arguments = json.loads(sys.argv[2])
arguments = {n: pathlib.Path(v) if n in ("data", "sagas") else v for n, v in arguments.items()}
sys.exit(up.run(**arguments))
"""


class Up:
    def __init__(self, directory: Path, environment: dict[str, str], *, stdout: int | None = None, **arguments: Any):
        """Without `stdout` what it says is read into `said`."""
        self.data = Path(arguments.setdefault("data", str(directory / "data")))
        arguments.setdefault("port", 0)
        arguments.setdefault("workers", 1)
        self._notes = directory / "notes"
        dummy = directory / "dummy.py"
        dummy.write_text(DUMMY)
        for role in ("api", "worker", "beat"):
            (directory / f"{role}.json").unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(dummy), json.dumps(arguments)],
            cwd=ROOT,
            env=clean | {"DUMMY_NOTES": str(self._notes)} | environment,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        lines = self.process.stdout or self.process.stderr
        assert lines is not None
        with lines:
            for line in lines:
                with self._more:
                    self.said += line
                    self._more.notify_all()

    def wait_for(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.said or not self._reader.is_alive(), 30)
            assert text in self.said, self.said

    def stands(self) -> RunningHouse:
        """Returns when it does, and each dummy listens to signals."""
        self.wait_for("Ctrl-C ends it all")
        wait_until(lambda: all(self._told(role).exists() for role in ("api", "worker", "beat")))
        house = RunningHouse.of(self.data)
        assert house is not None
        return house

    def ends(self) -> int:
        """Its exit code; all that it said stands in `said`."""
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()

    def _told(self, role: str) -> Path:
        return self._notes.with_name(f"{role}.json")

    def told(self, role: str) -> dict[str, str]:
        """The settings that a part was given."""
        told: dict[str, str] = json.loads(self._told(role).read_text())
        return told

    def noted(self) -> list[str]:
        """What the dummies did, in its order."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []


def answers(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
