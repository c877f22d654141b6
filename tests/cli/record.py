"""Records what the timeline's tests read: `python -m tests.cli.record` from the root of the repository.

Each story leads the law through one saga, and is written down as the API would show it, `{now, saga, events}`, with
the timeline that is drawn of it beside: read the difference before you commit it.
"""

import json
from collections.abc import Callable
from pathlib import Path

import click
import orjson

from app.cli.timeline import draw
from app.instants import moment, rfc3339
from app.saga import machine
from app.saga.definition import parse_definition
from app.saga.machine import Timing
from app.saga.messages import (
    Abandon,
    Actor,
    Answered,
    Cancel,
    Claim,
    ConditionFalse,
    Extend,
    Outcome,
    OutcomeKind,
    Pause,
    Record,
    Resolve,
    Resume,
    Retry,
    Skip,
    Woken,
)
from app.saga.state import ACTION, COMPENSATION, SECOND, Operation
from app.saga.yaml12 import load_yaml
from app.store.sagas import NewSaga
from app.views import event_data, saga_view

HISTORIES = Path(__file__).parent / "histories"
ID = "0199c4b2-7d1e-7c3a-9f00-1c2d3e4f5a6b"
T0 = 1_795_300_000 * SECOND
OLGA = Actor("olga", "the bank was asked")

ORDER = """
name: order
timeout: 15m
steps:
  - {name: reserve-inventory, service: inventory, action: reserve, compensation: release}
  - {name: charge-payment, service: payment, action: charge, compensation: refund}
  - {name: confirm-order, service: order, action: confirm, compensation: cancel}
"""


class Story:
    def __init__(self, definition: str, *, key: str = "order-1042", labels: dict[str, str] | None = None, **more):
        self.definition = parse_definition(load_yaml(definition), None)
        self.now, self.key, self.labels = T0, key, labels or {}
        made = machine.create(self.definition, T0, saga_id=ID, timing=Timing(), **more)
        self.state, self.records = made.state, list(made.records)

    def wait(self, seconds: float) -> "Story":
        self.now += round(seconds * SECOND)
        return self

    def tell(self, message) -> "Story":
        told = machine.step(self.definition, self.state, message, saga_id=ID, timing=Timing())
        assert told.records, f"{message} changed nothing: {told.refusal}"
        self.state = told.state
        self.records += told.records
        return self

    def at(self, word: str) -> tuple[int, Operation]:
        return self.definition.index[word.removeprefix("-")], COMPENSATION if word.startswith("-") else ACTION

    def begins(self, *words: str) -> "Story":
        for word in words:
            self.tell(Claim(self.now, *self.at(word)))
        return self

    def ends(self, word: str, outcome: Outcome, attempt: int | None = None) -> "Story":
        number = attempt or self.state.call(*self.at(word)).attempts
        return self.tell(Answered(self.now, *self.at(word), number, outcome))

    def does(self, *words: str, seconds: float = 0.012) -> "Story":
        for word in words:
            self.wait(0.004).begins(word).wait(seconds).ends(
                word, Outcome(OutcomeKind.SUCCEEDED, status=200, record={"ms": 11.4})
            )
        return self

    def tries(self, word: str, outcome: Outcome, *, seconds: float = 0.02) -> "Story":
        """As soon as it is due."""
        self.now = max(self.now, self.state.call(*self.at(word)).due_at or 0) if self.retrying(word) else self.now
        return self.wait(0.004).begins(word).wait(seconds).ends(word, outcome)

    def retrying(self, word: str) -> bool:
        return self.state.call(*self.at(word)).state == "RETRYING"

    def recorded(self) -> dict:
        new = NewSaga(
            id=ID,
            tenant="default",
            key=self.key,
            request_digest=b"",
            definition=self.definition,
            version=3,
            state=self.state,
            records=self.records,
            payloads={"input": b"{}"},
            labels=self.labels,
        )
        saga = orjson.loads(orjson.dumps(saga_view(new.as_read(self.now))))
        return {"now": rfc3339(self.now), "saga": saga, "events": [self.event(record) for record in self.records]}

    def event(self, record: Record) -> dict:
        event = {"seq": record.seq, "type": str(record.type), "at": rfc3339(record.at)}
        if record.step is not None:
            event["step"] = self.definition.steps[record.step].name
        event |= {name: value for name in ("operation", "attempt") if (value := getattr(record, name)) is not None}
        return event | {"data": orjson.loads(orjson.dumps(event_data(record.data)))}


def refused(message: str, status: int = 409) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, message, status)


def unknown(message: str, status: int | None = None, **more) -> Outcome:
    return Outcome(OutcomeKind.UNKNOWN, message, status, **more)


NO_CONNECTION = Outcome(OutcomeKind.NOT_SENT, "no connection to payment could be made: Connect call failed")


def completed() -> Story:
    return Story(ORDER, labels={"customer": "42", "channel": "web"}).does(
        "reserve-inventory", "charge-payment", "confirm-order"
    )


def refused_and_undone() -> Story:
    story = Story(ORDER).does("reserve-inventory", "charge-payment", seconds=0.031)
    story.tries("confirm-order", refused("order answered 409: the shop has closed for the year"))
    return story.does("-charge-payment", "-reserve-inventory")


def nothing_to_undo() -> Story:
    return Story(ORDER).tries("reserve-inventory", refused("inventory answered 422: no such article", 422))


def retrying() -> Story:
    story = Story(ORDER).does("reserve-inventory").tries("charge-payment", NO_CONNECTION)
    story.tries("charge-payment", unknown("payment answered 503: it is being restarted", 503), seconds=1.5)
    return story.wait(0.4)


def compensation_failed() -> Story:
    story = Story(ORDER.replace("compensation: refund", "compensation: refund, compensation_retry: {max_attempts: 2}"))
    story.does("reserve-inventory", "charge-payment")
    story.tries("confirm-order", refused("order answered 410", 410))
    story.tries("-charge-payment", unknown("payment did not answer within 10 s"), seconds=10)
    story.tries("-charge-payment", unknown("payment answered 500", 500))
    return story.does("-reserve-inventory")


def settled_by_hand() -> Story:
    story = compensation_failed().wait(3600 * 7)
    return story.tell(Resolve(story.now, OLGA, 1))


BESIDE = """
name: trip
steps:
  - {name: book-flight, service: flights, action: book, compensation: cancel, depends_on: []}
  - {name: book-hotel, service: hotels, action: book, compensation: cancel, depends_on: [], callback_timeout: 2h}
  - {name: insure, service: insurance, action: insure, compensation: none, depends_on: [book-flight], when: input.x}
  - {name: send-the-tickets-to-the-traveller, service: mail, action: send, compensation: none,
     depends_on: [book-flight, book-hotel]}
"""


def waiting() -> Story:
    story = Story(BESIDE, key="trip/2026-11-21/7").wait(0.01).begins("book-flight").wait(0.003).begins("book-hotel")
    story.wait(0.04).ends("book-hotel", Outcome(OutcomeKind.PENDING, "hotels answered 202", 202))
    story.wait(0.5).ends("book-flight", Outcome(OutcomeKind.SUCCEEDED, status=201))
    story.wait(0.01).tell(ConditionFalse(story.now, 2))
    return story.wait(95)


def waited() -> Story:
    story = waiting().ends("book-hotel", Outcome(OutcomeKind.SUCCEEDED, status=200))
    return story.wait(0.01).begins("send-the-tickets-to-the-traveller").wait(2)


def worker_lost() -> Story:
    story = Story(ORDER).does("reserve-inventory").wait(0.01).begins("charge-payment").wait(15)
    story.tell(Woken(story.now))
    story.tries("charge-payment", unknown("payment broke the connection", may_run_seconds=8), seconds=2)
    story.tell(Cancel(story.now + SECOND // 2, Actor("submitter", "the customer has left"))).wait(9)
    return story.tell(Woken(story.now)).does("-charge-payment", "-reserve-inventory")


PAUSES = """
name: payment
steps:
  - {name: authorise, service: psp, action: authorise, compensation: void}
  - {name: book, service: ledger, action: book, compensation: reverse, on_exhausted: pause, retries: 1}
  - {name: mail, service: smtp, action: send, compensation: none}
"""


def holding() -> Story:
    story = Story(PAUSES, key="pay-7").does("authorise")
    for _ in range(2):
        story.tries("book", unknown("ledger answered 500: the period is closed", 500))
    return story.wait(60)


def operators() -> Story:
    story = holding().tell(Retry(T0 + 62 * SECOND, OLGA, step=1))
    story.now = T0 + 63 * SECOND
    story.tries("book", NO_CONNECTION)
    story.wait(0.2).tell(Pause(story.now, Actor("olga", "the ledger moves")))
    story.wait(600).tell(Resume(story.now, Actor("olga", "it has moved"))).tell(
        Extend(story.now, Actor("olga", "the day was long"), 7200)
    )
    story.wait(1).tell(Skip(story.now, OLGA, 1, confirm_not_done=True)).wait(0.01).begins("mail").wait(3)
    return story.tell(Abandon(story.now, Actor("olga", "the customer was paid in cash")))


PIVOT = """
name: transfer
timeout: 2m
steps:
  - {name: hold, service: bank, action: hold, compensation: release}
  - {name: transfer, service: bank, action: transfer, compensation: none, pivot: true}
  - {name: notify, service: mail, action: notify, compensation: none, retries: 3}
"""


def without_limit() -> Story:
    story = Story(PIVOT, key="t-1").does("hold", "transfer")
    for _ in range(40):
        story.tries("notify", unknown("mail answered 503", 503))
    return story


def out_of_time() -> Story:
    story = Story(ORDER.replace("15m", "20s")).does("reserve-inventory")
    story.wait(10).tell(Woken(story.now)).wait(10.1).tell(Woken(story.now))
    return story.does("-reserve-inventory")


STORIES: tuple[Callable[[], Story], ...] = (
    completed,
    refused_and_undone,
    nothing_to_undo,
    retrying,
    compensation_failed,
    settled_by_hand,
    waiting,
    waited,
    worker_lost,
    holding,
    operators,
    without_limit,
    out_of_time,
)

if __name__ == "__main__":
    for tell in STORIES:
        recorded = tell().recorded()
        (HISTORIES / f"{tell.__name__}.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
        lines = draw(recorded["saga"], recorded["events"], moment(recorded["now"]))
        (HISTORIES / f"{tell.__name__}.txt").write_text(click.unstyle("\n".join(lines)) + "\n")
