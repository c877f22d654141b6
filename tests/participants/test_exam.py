"""The exam that every kind of participant sits: one attempt in, one outcome out (contract, section 4)."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from app.participants.contract import Attempt
from app.participants.http import HttpParticipant
from app.participants.python import PythonParticipant
from app.saga.messages import Outcome, OutcomeKind
from app.saga.service import Service
from saga_participant import Call, Refused
from tests.participant import Behaviour, Participant, answers, hangs

from .attempts import ATTEMPT, LIMIT, UNDOING

GRACE = 5.0

WORDS = {
    "returns an object": {"n": 1, "list": [None, True, 1.5, "é"]},
    "returns nothing": None,
    "returns text": "reserved",
}


class Sitter:
    """One kind of participant. `told` is what the last attempt gave it to read."""

    told: dict[str, Any]

    async def __call__(self, behaviour: str, attempt: Attempt = ATTEMPT) -> Outcome:
        raise NotImplementedError


class Http(Sitter):
    def __init__(self, participant: Participant, call: HttpParticipant) -> None:
        self._participant, self._call = participant, call

    async def __call__(self, behaviour: str, attempt: Attempt = ATTEMPT) -> Outcome:
        does = {
            "refuses": answers(422, {"detail": "never more than ten"}, Content_Type="application/problem+json"),
            "fails": answers(500, {"error": "disk full"}),
            "is too slow": hangs(),
            "returns too much": Behaviour(body={"text": "x" * LIMIT}),
        }
        if behaviour in WORDS:
            value = WORDS[behaviour]
            does[behaviour] = Behaviour(body=b"" if value is None else value)
        self._participant.on(attempt.step, does[behaviour], operation=attempt.operation)
        outcome = await self._call(attempt)
        for asked in self._participant.asked[-1:]:
            self.told = {**asked.body, "idempotency_key": asked.key}
        return outcome


class Python(Sitter):
    def __init__(self, threads: ThreadPoolExecutor, *, plain: bool) -> None:
        self._threads, self._plain = threads, plain
        self.release = threading.Event()

    async def __call__(self, behaviour: str, attempt: Attempt = ATTEMPT) -> Outcome:
        handler: Callable[[Call], Any] = functools.partial(self._plainly, behaviour)
        if not self._plain:

            async def handler(call: Call) -> Any:
                if behaviour == "is too slow":
                    await asyncio.Event().wait()
                return self._plainly(behaviour, call)

        participant = PythonParticipant(handler, self._threads, max_output_bytes=LIMIT, lease_grace_seconds=GRACE)
        return await participant(attempt)

    def _plainly(self, behaviour: str, call: Call) -> Any:
        names = ("saga_id", "saga", "step", "operation", "attempt", "input", "outputs", "output", "idempotency_key")
        self.told = {name: getattr(call, name) for name in names}
        match behaviour:
            case "refuses":
                raise Refused("never more than ten")
            case "fails":
                raise OSError("disk full")
            case "is too slow":
                self.release.wait(10)
            case "returns too much":
                return {"text": "x" * LIMIT}
        return WORDS.get(behaviour)


@pytest.fixture(params=["http", "async function", "plain function"])
async def sitter(
    request: pytest.FixtureRequest, participant: Participant, session: aiohttp.ClientSession
) -> AsyncIterator[Sitter]:
    if request.param == "http":
        yield Http(participant, HttpParticipant(session, Service("payment", url=participant.url), LIMIT))
        return
    threads = ThreadPoolExecutor(2)
    sitter = Python(threads, plain=request.param == "plain function")
    yield sitter
    sitter.release.set()
    threads.shutdown()


@pytest.mark.parametrize(("behaviour", "output"), WORDS.items())
async def test_what_is_returned_is_the_output(sitter: Sitter, behaviour: str, output: object) -> None:
    outcome = await sitter(behaviour)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert orjson.loads(outcome.output) == output
    assert outcome.may_run_seconds == 0


async def test_a_refusal_is_certain(sitter: Sitter) -> None:
    outcome = await sitter("refuses")
    assert outcome.kind is OutcomeKind.REFUSED
    assert not outcome.retriable
    assert "never more than ten" in outcome.message


async def test_after_a_failure_it_is_not_known_but_over(sitter: Sitter) -> None:
    outcome = await sitter("fails")
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert outcome.retriable is None
    assert outcome.may_run_seconds == 0


async def test_a_call_that_is_too_slow_is_given_up_at_its_timeout(sitter: Sitter) -> None:
    began = time.monotonic()
    outcome = await sitter("is too slow", replace(ATTEMPT, timeout_seconds=0.2))
    assert 0.19 < time.monotonic() - began < 2
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert "0.2 s" in outcome.message
    # A thread cannot be stopped: it may run on until the lease is over. The others are over.
    plain = isinstance(sitter, Python) and sitter._plain
    assert outcome.may_run_seconds == (GRACE if plain else 0)


async def test_what_comes_too_late_is_not_begun(sitter: Sitter) -> None:
    """Contract, section 5, rule 1: later than half of the lease's grace after its claim nothing is sent."""
    sitter.told = {}
    outcome = await sitter("returns nothing", replace(ATTEMPT, send_before=time.monotonic() - 0.001))
    assert (outcome.kind, outcome.may_run_seconds) == (OutcomeKind.NOT_SENT, 0)
    assert sitter.told == {}


async def test_an_output_over_the_limit_is_not_kept_and_the_outcome_unknown(sitter: Sitter) -> None:
    outcome = await sitter("returns too much")
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert outcome.output == b"null"
    assert outcome.may_run_seconds == 0


@pytest.mark.parametrize("behaviour", [*WORDS, "refuses", "fails", "is too slow", "returns too much"])
async def test_every_outcome_says_how_long_it_took(sitter: Sitter, behaviour: str) -> None:
    outcome = await sitter(behaviour, replace(ATTEMPT, timeout_seconds=0.2))
    assert 0 <= outcome.record["ms"] < 5000


async def test_an_action_is_told_all_that_the_contract_names(sitter: Sitter) -> None:
    await sitter("returns nothing")
    assert sitter.told == {
        "saga_id": ATTEMPT.saga_id,
        "saga": "order",
        "step": "charge",
        "operation": "action",
        "attempt": 2,
        "input": {"amount": 12.5, "text": "é"},
        "outputs": {"reserve": {"id": [1, 2]}},
        "output": None,
        "idempotency_key": ATTEMPT.key,
    }


async def test_a_compensation_is_told_what_its_action_answered(sitter: Sitter) -> None:
    outcome = await sitter("returns nothing", UNDOING)
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert sitter.told["operation"] == "compensation"
    assert sitter.told["output"] == {"charge": 4711}
    assert sitter.told["idempotency_key"] == f"{ATTEMPT.key}/compensation"
    await sitter("returns nothing", replace(UNDOING, output=None))
    assert sitter.told["output"] is None


async def test_an_attempt_that_is_cancelled_lets_itself_be_cancelled(sitter: Sitter) -> None:
    task = asyncio.create_task(sitter("is too slow"))
    while not hasattr(sitter, "told") and not (isinstance(sitter, Http) and sitter._participant.asked):
        await asyncio.sleep(0)
        if isinstance(sitter, Python) and not sitter._plain:
            break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
