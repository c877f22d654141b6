"""The supervisor by itself: what it starts again, what it gives up, and what it says of it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.local.bell import Bell
from app.local.errors import HouseError
from app.local.program import Program
from app.local.supervisor import _ATTEMPTS_TO_STAND, Supervisor, _delay_seconds

from .watching import wait_until


class Told:
    """What the supervisor says, and what a test does when it hears it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.reactions: dict[str, Callable[[], object]] = {}

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        for words, react in self.reactions.items():
            if words in line:
                react()


@pytest.fixture
def bell() -> Iterator[Bell]:
    with Bell() as bell:
        yield bell


MakeProgram = Callable[..., Program]
WAITS = "import signal; signal.pause()"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[MakeProgram]:
    made: list[Program] = []

    def make(source: str, *, ready: Callable[[], bool] | None = lambda: True) -> Program:
        argv = [sys.executable, "-S", "-c", source]
        made.append(Program("part", argv, log=tmp_path / "part.log", ready=ready))
        return made[-1]

    yield make
    for part in made:
        part.stop(0)


def ring(bell: Bell) -> None:
    bell.rings += 1


def test_delays_double_up_to_a_limit_however_often_a_part_dies() -> None:
    assert [_delay_seconds(deaths) for deaths in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert _delay_seconds(100_000) == 5


def test_delays_grow_while_a_part_is_killed_again_and_again(
    bell: Bell, program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.supervisor._FIRST_DELAY_SECONDS", 0.02)
    told = Told()
    told.reactions["in 0.16 s"] = lambda: ring(bell)
    part = program("import os; os.kill(os.getpid(), 9)", ready=lambda: False)
    assert not Supervisor(bell, told).bring_up([part])
    assert [line.split(" in ")[1].split(" s.")[0] for line in told.lines] == ["0.02", "0.04", "0.08", "0.16"]


def test_a_part_that_once_stood_is_never_given_up(
    bell: Bell, program: MakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.supervisor._STEADY_SECONDS", 0)
    monkeypatch.setattr("app.local.supervisor._LONGEST_DELAY_SECONDS", 0.01)
    told = Told()
    broken = tmp_path / "broken"
    part = program(f"import os, signal, sys\nif os.path.exists({str(broken)!r}): sys.exit(3)\nsignal.pause()")
    supervisor = Supervisor(bell, told)
    assert supervisor.bring_up([part])
    assert supervisor.bring_up([program(WAITS)])
    broken.touch()
    assert part.pid is not None
    os.kill(part.pid, signal.SIGKILL)

    def enough() -> None:
        if sum("exit code 3" in line for line in told.lines) == _ATTEMPTS_TO_STAND + 1:
            broken.unlink()
            told.reactions = {"is up again": lambda: ring(bell)}

    told.reactions["exit code 3"] = enough
    supervisor.watch()
    assert part.poll() is None


def test_a_death_while_the_ground_is_missing_does_not_count(
    bell: Bell, program: MakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is killed early on: a worker may end several times before it is back."""
    monkeypatch.setattr("app.local.supervisor._LONGEST_DELAY_SECONDS", 0.01)
    told = Told()
    ground_is_there = tmp_path / "ground"
    ground_is_there.touch()
    ground = program(WAITS, ready=ground_is_there.exists)
    part = program(f"import os, signal, sys\nif not os.path.exists({str(ground_is_there)!r}): sys.exit(69)\n{WAITS}")
    ground.name, part.title = "ground", "worker"
    supervisor = Supervisor(bell, told)
    assert supervisor.bring_up([ground])
    assert supervisor.bring_up([part])
    ground_is_there.unlink()
    for process in (ground, part):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    def enough() -> None:
        if sum("exit code 69" in line for line in told.lines) == _ATTEMPTS_TO_STAND:
            ground_is_there.touch()
            told.reactions = {"worker is up again": lambda: ring(bell)}

    told.reactions["exit code 69"] = enough
    supervisor.watch()
    assert part.poll() is None


def test_a_part_that_does_not_get_ready_is_given_up(
    bell: Bell, program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.supervisor._LONGEST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("app.local.supervisor._START_LIMIT_SECONDS", 0.1)
    part = program(WAITS, ready=lambda: False)
    with pytest.raises(HouseError, match=r"3 times in a row it was not ready after 0\.1 s"):
        Supervisor(bell, Told()).bring_up([part])
    assert part.pid is None


def test_a_program_that_does_not_exist_is_told(bell: Bell, tmp_path: Path) -> None:
    part = Program("part", ["/nowhere/program"], log=tmp_path / "part.log")
    with pytest.raises(HouseError, match="/nowhere/program"):
        Supervisor(bell, Told()).bring_up([part])


def test_a_part_that_nobody_can_ask_is_up_when_it_has_lived_for_a_moment(
    bell: Bell, program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.program._SETTLED_SECONDS", 0.2)
    part = program(WAITS, ready=None)
    supervisor = Supervisor(bell, Told())
    began = time.monotonic()
    assert supervisor.bring_up([part])
    assert time.monotonic() - began >= 0.2
    supervisor.bring_down([(5, [part])])
    assert part.poll() == -signal.SIGTERM


def test_a_long_log_is_cut_while_its_part_writes_on(
    bell: Bell, program: MakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.logs._LIMIT_BYTES", 10_000)
    log, before = tmp_path / "part.log", tmp_path / "part.log.1"
    part = program(
        "import signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('more', flush=True))\n"
        "print('x' * 20_000, flush=True)\n"
        "while True: signal.pause()",
        ready=before.exists,
    )
    assert Supervisor(bell, Told()).bring_up([part])
    assert before.stat().st_size == 20_001
    assert log.stat().st_size == 0
    assert part.pid is not None
    os.kill(part.pid, signal.SIGUSR1)
    wait_until(lambda: log.stat().st_size > 0)
    assert log.read_text() == "more\n"
