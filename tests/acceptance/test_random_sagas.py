"""200 random sagas on real processes: the history is held by the law's `Judge`, the participant's ledger is the truth.

What an attempt meant is taken from what the participant was told to answer, never from the history; the history says
only when the house has heard it. `SAGA_SEED` repeats the definitions, the scripts and the cancels (the processes
interleave as they like), `SAGA_RANDOM_SAGAS` says how many.
"""

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest

from app.saga.definition import Definition, RetryPolicy, to_document
from tests.acceptance.house import Client, house
from tests.law.judge import (
    ACTION,
    AT_REST,
    COMPENSATION,
    NOT_SENT,
    PENDING,
    REFUSED,
    SUCCEEDED,
    UNKNOWN,
    Judge,
    Shape,
    Word,
)
from tests.law.shapes import random_definition
from tests.participant import (
    ACCEPTED,
    BUSY,
    CUT,
    DONE_BUT_503,
    DONE_BUT_CUT,
    DONE_BUT_MALFORMED,
    MALFORMED,
    OK,
    Asked,
    Behaviour,
    Hold,
    Participant,
    answers,
)
from tests.participant import REFUSED as REFUSES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# What lands is held to sagas that are known; whoever runs it by hand draws others.
DRAWN = 4711 if os.environ.get("CI") else random.SystemRandom().randrange(10**9)
SEED = int(os.environ.get("SAGA_SEED") or DRAWN)
SAGAS = int(os.environ.get("SAGA_RANDOM_SAGAS", "200"))
GRACE_SECONDS = 2
TIMEOUT_SECONDS = 1
SETTINGS = {"SAGA_REDISPATCH_AFTER": "3", "SAGA_LEASE_GRACE": str(GRACE_SECONDS), "SAGA_SWEEP_INTERVAL": "0.3"}
PROBLEM = {"Content_Type": "application/problem+json"}


@dataclass(frozen=True)
class Fate:
    """What the participant does with one attempt, and what that means by section 4 of the contract."""

    behaviour: Behaviour
    word: Word
    called_back: str | None = None
    answers_late: bool = False


def refuses_for_good(done: bool) -> Behaviour:
    return replace(answers(503, {"retriable": False}, **PROBLEM), does=done)


FATES: Mapping[str, Fate] = {
    "ok": Fate(OK, Word(SUCCEEDED)),
    "refused": Fate(REFUSES, Word(REFUSED)),
    "refused for now": Fate(answers(422, {"retriable": True}, **PROBLEM), Word(REFUSED, True)),
    "503": Fate(BUSY, Word(UNKNOWN)),
    "503, done": Fate(DONE_BUT_503, Word(UNKNOWN)),
    "503 for good": Fate(refuses_for_good(done=False), Word(UNKNOWN, False)),
    "503 for good, done": Fate(refuses_for_good(done=True), Word(UNKNOWN, False)),
    "cut": Fate(CUT, Word(UNKNOWN)),
    "cut, done": Fate(DONE_BUT_CUT, Word(UNKNOWN)),
    "malformed": Fate(MALFORMED, Word(UNKNOWN)),
    "malformed, done": Fate(DONE_BUT_MALFORMED, Word(UNKNOWN)),
    "too slow": Fate(BUSY, Word(UNKNOWN), answers_late=True),
    "too slow, done": Fate(OK, Word(UNKNOWN), answers_late=True),
    "202": Fate(replace(ACCEPTED, does=True), Word(PENDING), SUCCEEDED),
    "202, refused": Fate(ACCEPTED, Word(PENDING), REFUSED),
    "202, never": Fate(ACCEPTED, Word(PENDING)),
    "202, done, never told": Fate(replace(ACCEPTED, does=True), Word(PENDING)),
}


@dataclass
class Planned:
    """One random saga, all of its seed."""

    key: str
    definition: Definition
    false: frozenset[str]
    script: Mapping[tuple[str, str], tuple[str, ...]]
    cancel_after_seconds: float | None

    def fate(self, step: str, kind: str, attempt: int) -> Fate:
        fates = self.script[step, kind]
        return FATES[fates[attempt - 1] if attempt <= len(fates) else "ok"]


def planned(number: int) -> Planned:
    chance = random.Random(f"{SEED}-{number}")
    definition = replace(random_definition(chance), name=f"random-{number}")
    trouble = chance.choice([0, 0.05, 0.2, 0.5])
    quick = RetryPolicy(1, 0.05, 2, 0.5, 0.2)
    steps = tuple(
        replace(
            step,
            service="shop",
            when=f"input.{step.name}" if chance.random() < 0.3 else None,
            timeout_seconds=TIMEOUT_SECONDS,
            compensation_timeout_seconds=TIMEOUT_SECONDS,
            callback_timeout_seconds=2,
            retry=replace(quick, max_attempts=step.retry.max_attempts),
            compensation_retry=replace(quick, max_attempts=step.compensation_retry.max_attempts),
        )
        for step in definition.steps
    )
    others = [name for name in FATES if name != "ok"]
    script = {
        (step.name, kind): tuple(chance.choice(others) if chance.random() < trouble else "ok" for _ in range(4))
        for step in steps
        for kind in (ACTION, COMPENSATION)
    }
    return Planned(
        f"random-{number}",
        replace(definition, steps=steps, timeout_seconds=chance.choice([3600, 3600, 1.5])),
        frozenset(step.name for step in steps if step.when and chance.random() < 0.5),
        script,
        chance.uniform(0, 2) if chance.random() < 0.2 else None,
    )


# --- the run ----------------------------------------------------------------------------------------------------


class Shop:
    """The participant's side: it answers by script, and calls back."""

    def __init__(self, participant: Participant, client: Client) -> None:
        self.participant, self.client = participant, client
        self.plans: dict[str, Planned] = {}
        """By definition."""
        self.callbacks: set[asyncio.Task[None]] = set()
        self.busy: set[tuple[str, str, str, int]] = set()
        """Attempts that came while the one before, with their key, was at work: answered 409."""

    def behave(self, asked: Asked) -> Behaviour:
        fate = self.plans[asked.saga].fate(asked.step, asked.operation, asked.attempt)
        if fate.called_back:
            task = asyncio.create_task(self._call_back(asked.headers["Saga-Callback-Url"], fate.called_back))
            self.callbacks.add(task)
        behaviour = fate.behaviour
        if behaviour.does and self.participant._at_work[asked.key]:
            self.busy.add((asked.saga_id, asked.step, asked.operation, asked.attempt))
        if fate.answers_late:
            late = Hold()
            asyncio.get_running_loop().call_later(1.5 * TIMEOUT_SECONDS, late.release)
            behaviour = replace(behaviour, **{"then_hold" if behaviour.does else "hold": late})
        return behaviour

    async def _call_back(self, url: str, status: str) -> None:
        async with self.client.session.post(url, json={"status": status}) as answer:
            assert answer.status in {200, 409}, await answer.text()


def under_way(saga: dict[str, Any]) -> bool:
    """Whether an answer is awaited that may still end its hold."""
    return any(step["state"] in {"RUNNING", "WAITING"} for step in saga["steps"])


async def live(plan: Planned, client: Client) -> dict[str, Any]:
    """Submits it, cancels it if it is to be, and returns it when it has come to rest or to a hold."""
    given = {step.name: step.name not in plan.false for step in plan.definition.steps}
    saga = await client.submit(plan.key, plan.definition.name, given)
    path = f"/sagas/{saga['id']}"
    if plan.cancel_after_seconds is not None:
        await asyncio.sleep(plan.cancel_after_seconds)
        async with client.session.post(f"{client.url}{path}/cancel", json={}) as answer:
            told = await answer.json()
            assert answer.status == 202 or told["code"] in {"saga-at-rest", "past-pivot"}, told
    with contextlib.suppress(TimeoutError):  # where it stands then is judged
        async with asyncio.timeout(90):
            while not (saga["state"] in AT_REST or (saga["paused"] and not under_way(saga))):
                await asyncio.sleep(0.3)
                saga = await client.get(path)
    return saga


@pytest.fixture
def random_house(tmp_path, unused_tcp_port):
    sagas = tmp_path / "sagas"
    sagas.mkdir()
    plans = [planned(number) for number in range(SAGAS)]
    for plan in plans:
        (sagas / f"{plan.key}.yaml").write_text(json.dumps(to_document(plan.definition)))
    (sagas / "services.yaml").write_text(f"shop: {{url: 'http://127.0.0.1:{unused_tcp_port}'}}\n")
    with house(tmp_path, sagas, **SETTINGS) as running:
        yield running, plans, unused_tcp_port


async def test_random_sagas_end_as_the_contract_allows(random_house, record_property) -> None:
    record_property("told", f"{SAGAS} random sagas on real processes, SAGA_SEED={SEED} repeats them")
    running, plans, port = random_house
    met: Counter[str] = Counter()
    async with Participant.serve(port) as participant, running.client() as client:
        shop = Shop(participant, client)
        shop.plans = {plan.definition.name: plan for plan in plans}
        participant.default = shop.behave
        sagas = await asyncio.gather(*(live(plan, client) for plan in plans))
        await asyncio.gather(*shop.callbacks)
        for plan, saga in zip(plans, sagas, strict=True):
            events = (await client.get(f"/sagas/{saga['id']}/events"))["items"]
            try:
                is_judged(plan, saga, events, shop)
            except AssertionError as error:
                steps = json.dumps(to_document(plan.definition)["steps"])
                told = [f"SAGA_SEED={SEED} repeats {plan.key}: {steps}", f"{plan.script} {plan.false}"]
                error.add_note("\n".join([*told, json.dumps(saga), *map(json.dumps, events)]))
                raise
            met[saga["state"]] += 1
        wrong = ("after its compensation", "two keys", "came twice")
        assert not [fault for fault in participant.faults if any(word in fault for word in wrong)]
    if SAGAS >= 100:
        assert {"COMPLETED", "FAILED", "COMPENSATION_FAILED"} <= met.keys()
    assert await running.check_histories() == SAGAS


# --- the judgement ----------------------------------------------------------------------------------------------


def micros(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1_000_000)


def is_judged(plan: Planned, saga: dict[str, Any], events: list[dict[str, Any]], shop: "Shop") -> None:
    participant = shop.participant
    place = {step.name: position for position, step in enumerate(plan.definition.steps)}
    sent = {(a.step, a.operation, a.attempt) for a in participant.asked if a.saga_id == saga["id"]}
    judge = Judge(Shape(plan.definition), micros(events[0]["data"]["deadline_at"]), GRACE_SECONDS)
    for event in events:
        now, kind, data = micros(event["at"]), event["type"], event["data"]
        name, operation, attempt = event.get("step"), event.get("operation"), event.get("attempt")
        if kind in {"StepStarted", "CompensationStarted"}:
            judge.sends(place[name], operation, attempt, now)
        elif kind == "StepSkipped":
            assert name in plan.false
            judge.finds_the_condition_false(place[name])
        elif kind == "SagaCancelled":
            judge.cancels(True)
        elif kind == "SagaTimedOut":
            judge.is_looked_at(now)
        elif attempt is not None:
            where = (name, operation, attempt)
            fate = plan.fate(*where)
            word = fate.word
            if kind.endswith("Succeeded") and data.get("status") is None and fate.called_back == SUCCEEDED:
                word = Word(SUCCEEDED)  # by callback, whatever the call itself was answered
            elif (saga["id"], *where) in shop.busy:
                word = Word(UNKNOWN)  # a 409 after an attempt that ended unknown
            elif where not in sent:
                word = Word(UNKNOWN if kind == "StepAttemptLost" else NOT_SENT)
            elif kind == "StepAttemptLost" or "did not answer within" in data.get("error", {}).get("message", ""):
                word = Word(UNKNOWN)  # where the script knows of no delay, the machine was too busy for the timeout
            elif word.kind == PENDING and kind != "StepWaiting" and fate.called_back:
                word = Word(fate.called_back)
            if until := data.get("quiet_until"):
                assert word.kind == UNKNOWN, f"{where} was {word}, and may still run"
                word = replace(word, may_run_seconds=(micros(until) - now) / 1_000_000)
            judge.hears(place[name], operation, attempt, word, now)
        judge.begins(now)
    attention = None if saga["attention"] is None else set(saga["attention"]["steps"])
    judge.reads(saga["state"], attention, saga["error"] and saga["error"]["code"])
    assert saga["state"] in AT_REST or saga["paused"], "it has not come to rest"
    assert saga["paused"] == bool(judge.holding)
    standing = participant.standing(saga["id"])
    done = Counter(participant.effects(saga["id"]))
    assert max(done.values(), default=1) == 1, f"done twice: {done}"
    judge.finds_standing({place[name]: 1 for name in standing})
