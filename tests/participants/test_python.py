"""Python participants: how their functions are found, and what only functions do."""

import asyncio
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.participants.python import PythonParticipant
from app.participants.registry import Participants
from app.saga.messages import Outcome, OutcomeKind
from app.saga.service import Service
from app.settings import Settings
from saga_participant import Call
from tests.waiting import until

from .attempts import ATTEMPT, LIMIT

GRACE = 5.0


class NotToStr:
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(1)
    yield threads
    threads.shutdown()


Run = Callable[..., Any]


@pytest.fixture
def run(threads: ThreadPoolExecutor) -> Run:
    async def run(handler: Callable[[Call], Any], **attempt: Any) -> Outcome:
        participant = PythonParticipant(handler, threads, max_output_bytes=LIMIT, lease_grace_seconds=GRACE)
        return await participant(replace(ATTEMPT, **attempt))

    return run


def raising(error: BaseException, *, plain: bool) -> Callable[[Call], Any]:
    def plainly(call: Call) -> None:
        raise error

    async def later(call: Call) -> None:
        await asyncio.sleep(0)
        raise error

    return plainly if plain else later


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        TimeoutError("of its own"),
        asyncio.CancelledError("from within"),
        StopIteration(1),
        ExceptionGroup("two", [ValueError(1), OSError(2)]),
        MemoryError(),
        RuntimeError("\0 and \ud800"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_it_raises_is_unknown_and_over(run: Run, error: BaseException, plain: bool) -> None:
    outcome = await run(raising(error, plain=plain))
    assert (outcome.kind, outcome.may_run_seconds) == (OutcomeKind.UNKNOWN, 0)
    orjson.dumps(outcome.message)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, "\ud800", 2**70, lambda: 1])
async def test_what_json_cannot_say_is_no_output(run: Run, value: object) -> None:
    async def handler(call: Call) -> object:
        return value

    outcome = await run(handler)
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert "JSON" in outcome.message


async def test_an_endless_structure_is_no_output(run: Run) -> None:
    def handler(call: Call) -> object:
        endless: list[Any] = []
        endless.append(endless)
        return endless

    assert (await run(handler)).kind is OutcomeKind.UNKNOWN


async def test_a_plain_function_runs_beside_the_loop(run: Run) -> None:
    began, release = threading.Event(), threading.Event()

    def handler(call: Call) -> str:
        began.set()
        assert release.wait(10)
        return threading.current_thread().name

    task = asyncio.create_task(run(handler))
    await asyncio.to_thread(began.wait, 10)
    release.set()
    assert orjson.loads((await task).output) != threading.main_thread().name


async def test_a_plain_function_for_which_no_thread_was_free_was_not_sent(
    run: Run, threads: ThreadPoolExecutor
) -> None:
    release = threading.Event()
    threads.submit(release.wait, 10)
    called = []
    outcome = await run(called.append, timeout_seconds=0.1)
    release.set()
    threads.submit(int).result()
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert not called


async def test_a_plain_function_whose_thread_came_too_late_is_not_begun(run: Run, threads: ThreadPoolExecutor) -> None:
    release = threading.Event()
    threads.submit(release.wait, 10)
    called = []
    late = time.monotonic() + 0.05
    task = asyncio.create_task(run(called.append, send_before=late))
    await until(lambda: time.monotonic() > late)
    release.set()
    assert (await task).kind is OutcomeKind.NOT_SENT
    assert not called


async def test_an_async_function_is_cancelled_at_its_timeout(run: Run) -> None:
    ended = []

    async def handler(call: Call) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    outcome = await run(handler, timeout_seconds=0.05)
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert ended == ["cancelled"]


async def test_an_async_function_that_finishes_although_cancelled_has_succeeded(run: Run) -> None:
    async def handler(call: Call) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done all the same"

    outcome = await run(handler, timeout_seconds=0.05)
    assert outcome.kind is OutcomeKind.SUCCEEDED


async def test_a_function_that_returns_something_to_await_is_awaited(run: Run) -> None:
    async def later(call: Call, more: str) -> str:
        return more

    outcome = await run(functools.partial(later, more="done"))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, b'"done"')

    wrapped = functools.wraps(later)(lambda call: later(call, "wrapped"))
    assert (await run(wrapped)).output == b'"wrapped"'


async def test_a_function_gets_input_of_its_own_on_every_attempt(run: Run) -> None:
    seen = []

    def handler(call: Call) -> None:
        seen.append(dict(call.input))
        call.input["amount"] = 0

    await run(handler)
    await run(handler)
    assert seen[0] == seen[1]


# --- finding them -----------------------------------------------------------------------------------------------

HEAD = "from saga_participant import handler, Refused\n"


class Finder:
    """Participants that know one service, `ledger`, whose functions are in a file of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.service = folder, Service("ledger", python="./ledger.py")

    def write(self, source: str, name: str = "ledger.py") -> None:
        (self.folder / name).write_text(HEAD + source)

    async def find(self, name: str = "book", *, folder: bool = True) -> Any:
        async def known(service: str) -> Service | None:
            return self.service if service == "ledger" else None

        participants = Participants(known, Settings(sagas_dir=self.folder if folder else None))
        try:
            return await participants.find("ledger", name)
        finally:
            await participants.close()


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finder]:
    before, path = set(sys.modules), list(sys.path)
    yield Finder(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith(("saga_handlers_", "neighbour", "shop_")):
            del sys.modules[name]
    sys.path[:] = path


async def test_functions_of_a_file_beside_services_yaml_are_found(finder: Finder) -> None:
    finder.write("@handler('book')\nasync def book(call): return call.step\n")
    participant = await finder.find()
    assert orjson.loads((await participant(ATTEMPT)).output) == "charge"


async def test_functions_of_a_module_are_found(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    finder.write("@handler('book')\ndef book(call): return 1\n", "shop_ledger.py")
    monkeypatch.syspath_prepend(finder.folder)
    finder.service = Service("ledger", python="shop_ledger")
    assert isinstance(await finder.find(folder=False), PythonParticipant)


async def test_a_file_may_import_its_neighbours(finder: Finder) -> None:
    finder.write("VALUE = 7\n", "neighbour.py")
    finder.write("import neighbour\n@handler('book')\nasync def book(call): return neighbour.VALUE\n")
    assert (await (await finder.find())(ATTEMPT)).output == b"7"


async def test_a_function_that_is_not_there_is_named_with_those_that_are(finder: Finder) -> None:
    finder.write("@handler('cancel')\ndef c(call): ...\n@handler('book')\ndef b(call): ...\n")
    said = await finder.find("boook")
    assert "no handler for 'boook'; it has book, cancel" in said
    assert "service 'ledger' cannot be used" in said


UNUSABLE = [
    ("", "registers no function with @saga_participant.handler"),
    ("@handler('book')\ndef a(c): ...\n@handler('book')\ndef b(c): ...\n", "two functions .* handle 'book'"),
    ("def broken(:\n", "SyntaxError"),
    ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ("import sys; sys.exit('no licence')\n", "SystemExit: no licence"),
    ("import no_such_package_of_ours\n", "No module named 'no_such_package_of_ours'"),
    ("import app.shop\n", "a package of yours called 'app' is hidden by the orchestrator's own"),
    ("from app.settings import Shop\n", "a package of yours called 'app' is hidden"),
    ("import workers.mine\n", "a package of yours called 'workers' is hidden"),
]


@pytest.mark.parametrize(("source", "said"), UNUSABLE)
async def test_why_a_file_cannot_be_used_is_said_in_a_sentence(finder: Finder, source: str, said: str) -> None:
    finder.write(source)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(await finder.find())


async def test_a_file_that_has_been_mended_is_found_without_a_restart(finder: Finder) -> None:
    finder.write("1 / 0\n")
    assert isinstance(await finder.find(), str)
    finder.write("@handler('book')\ndef book(call): ...\n")
    assert isinstance(await finder.find(), PythonParticipant)


async def test_a_file_that_is_not_there_and_a_folder_that_was_not_given(finder: Finder) -> None:
    assert "ledger.py does not exist" in await finder.find()
    assert "SAGA_SAGAS_DIR" in await finder.find(folder=False)


async def test_a_service_that_is_not_there_is_said_to_be_missing(finder: Finder) -> None:
    async def nobody(name: str) -> None:
        return None

    participants = Participants(nobody, Settings())
    assert "service 'ledger' is not registered" in str(await participants.find("ledger", "book"))
    await participants.close()


async def test_two_files_of_one_name_do_not_meet(finder: Finder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    finder.write("@handler('book')\nasync def book(call): return 'one'\n")
    finder.write("@handler('book')\nasync def book(call): return 'other'\n", "other/ledger.py")
    one = await finder.find()
    finder.service = Service("ledger", python="other/ledger.py")
    other = await finder.find()
    assert [(await p(ATTEMPT)).output for p in (one, other)] == [b'"one"', b'"other"']


async def test_a_service_whose_secret_is_none_is_said_to_be_unusable(finder: Finder) -> None:
    finder.service = Service("ledger", url="http://127.0.0.1:9", secrets=("whsec_abcde",))
    assert "cannot be used" in str(await finder.find())
