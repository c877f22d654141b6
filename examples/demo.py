"""What the orchestrator promises, shown on real participants: `make demo`, or `python -m examples.demo`.

Ten sagas run through the whole house (`saga up`: API, workers, beat, PostgreSQL, Valkey). Each is shown as a
timeline of what its history says; whether that is true is asked of the participants themselves, of the ledgers
of the three shop services, of the payment provider, of the books and of the mailbox, and of the databases of the
three services that only know events. The demonstration exits with 0 only if every one of them agrees.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from app.local.logs import tail
from app.local.processes import Process, end, spawn
from examples.choreography.checks import ledgers_say, sums_say
from examples.payment.checks import ledger_holds, mailbox_holds, psp_holds
from examples.processes import (
    HERE,
    EventServices,
    PaymentServers,
    Server,
    event_services,
    order_services,
    payment_servers,
)

START_SECONDS = 60
REST_SECONDS = 60
SETTLE_SECONDS = 10
TICK_SECONDS = 0.05
WIDTH = 150

ORDER = {"sku": "book", "quantity": 2, "amount": 4000, "card": "visa", "confirm": "accept"}
PLACED = {"sku": "book", "quantity": 2, "cents": 4000, "card": "visa"}
PAYMENT = {
    "amount": 4000,
    "currency": "eur",
    "card": "pm_card_visa",
    "merchant": "bookshop",
    "email": "reader@bookshop.example",
}

Json = dict[str, Any]

_opener = build_opener(ProxyHandler({}))  # loopback needs no proxy


def fetch(url: str, headers: Mapping[str, str] | None = None, body: Json | None = None) -> Json:
    """The JSON that a GET, or with a body a POST, is answered. Raises HTTPError for 4xx and 5xx."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    with _opener.open(request, timeout=REST_SECONDS + 10) as response:
        return json.load(response)


def until(condition: Callable[[], Any], what: str, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"after {seconds:.0f} seconds still no {what}")
        time.sleep(TICK_SECONDS)


class House:
    """`saga up` in a directory of its own, and its API as a client sees it."""

    def __init__(self, process: Process, data: Path) -> None:
        """Returns when it is ready."""
        self._data = data
        until(lambda: process.poll() is not None or self._about().get("ready"), "house", START_SECONDS)
        if process.poll() is not None:
            raise RuntimeError("saga up ended")
        key = json.loads((data / "credentials.json").read_text())["api_key"]
        self._headers = {"Authorization": f"Bearer {key}"}
        self._url = f"{self._about()['url']}/sagas"

    def submit(self, saga: str, key: str, saga_input: Json, wait_seconds: int = 0) -> Json:
        """Starts it. The same key and input again answer with the same saga, so this also waits for one."""
        headers = self._headers | {"Idempotency-Key": key, "Prefer": f"wait={wait_seconds}"}
        return fetch(self._url, headers, {"saga": saga, "input": saga_input})

    def find(self, key: str) -> Json | None:
        """The saga of this key; nothing while there is none."""
        found = fetch(f"{self._url}?{urlencode({'key': key})}", self._headers)["items"]
        return found[0] if found else None

    def events(self, saga_id: str) -> list[Json]:
        return fetch(f"{self._url}/{saga_id}/events", self._headers)["items"]

    @property
    def redis_url(self) -> str:
        """Where the events are."""
        return str(self._about()["redis_url"])

    def kill_workers(self) -> list[str]:
        """SIGKILL to each; returns their names. The house brings them back."""
        workers = {name: pid for name, pid in self._about()["parts"].items() if name.startswith("worker")}
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        return list(workers)

    def _about(self) -> Json:
        """What `saga up` says of itself; nothing before it has begun."""
        path = self._data / "house.json"
        return json.loads(path.read_text()) if path.exists() else {}


@contextmanager
def house(data: Path, sagas: Path, environment: Mapping[str, str]) -> Iterator[House]:
    saga = Path(sys.executable).with_name("saga")
    argv = [saga, "up", "--data", data, "--sagas", sagas, "--port", "0", "--workers", "2"]
    log = data.parent / "house.log"
    # Whatever orchestrator your shell is set up for, this one is its own.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    # SIGTERM and not SIGKILL, should we be killed: `saga up` then ends its parts in order.
    process = spawn(
        [str(each) for each in argv], log=log, env=inherited | dict(environment), death_signal=signal.SIGTERM
    )
    try:
        yield House(process, data)
    except Exception:
        print(f"The house said last:\n{tail(log, lines=30)}", file=sys.stderr)
        raise
    finally:
        end(process, grace_seconds=30)


def write_sagas(directory: Path, services: Mapping[str, Server]) -> Path:
    """All examples in one folder, with the addresses of the services as they are now."""
    shutil.copytree(HERE / "payment/sagas", directory, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "order/sagas/order.yaml", directory)
    shutil.copy(HERE / "choreography/sagas/order-events.yaml", directory)  # its services have the same names
    with (directory / "services.yaml").open("a") as file:
        for name, server in services.items():
            file.write(f'{name}: {{url: "{server.url}"}}\n')
    return directory


# --- what is shown ---

SHOWN = {
    "SagaStarted": "the saga begins",
    "StepSucceeded": "done",
    "StepRefused": "REFUSED",
    "StepAttemptFailed": "failed",
    "StepAttemptLost": "lost: its worker is gone",
    "StepExhausted": "given up",
    "CompensationBegan": "it turns: what was done is undone",
    "CompensationSucceeded": "undone",
    "CompensationAttemptFailed": "failed",
    "CompensationFailed": "could not be undone",
    "SagaTimedOut": "it is out of time",
    "SagaCompleted": "COMPLETED",
    "SagaFailed": "FAILED, and nothing of it is left",
    "SagaCompensationFailed": "COMPENSATION_FAILED, a person has to look",
    "AttentionRaised": "a person is told",
}

SHOWN_OF_EVENTS = SHOWN | {
    "StepAttemptLost": "outcome unknown",
    "CompensationStarted": "asked for, with CompensationRequested",
}


def timeline(events: list[Json], shown: Mapping[str, str] = SHOWN) -> Iterator[str]:
    """A line for each event that tells something, with seconds since the saga was accepted."""
    begun: dict[tuple[Any, ...], datetime] = {}
    accepted = datetime.fromisoformat(events[0]["at"])
    for event in events:
        at = datetime.fromisoformat(event["at"])
        attempt = (event.get("step"), event.get("operation"), event.get("attempt"))
        if event["type"] in {"StepStarted", "CompensationStarted"}:
            begun[attempt] = at
        if (words := shown.get(event["type"])) is None:
            continue
        line = f"{(at - accepted).total_seconds():7.2f} s  "
        if event.get("step"):
            what = f"{event['operation']} {event.get('attempt') or ''}"
            line += f"{event['step']:22} {what:15} "
        line += words
        if event["type"] not in {"StepStarted", "CompensationStarted"} and attempt in begun and event.get("step"):
            line += f" after {(at - begun[attempt]).total_seconds() * 1000:.0f} ms"
        if message := ((event.get("data") or {}).get("error") or {}).get("message"):
            line += f": {message}"
        yield line if len(line) <= WIDTH else f"{line[:WIDTH]}..."


def in_words(found: Any) -> str:
    """A ledger's answer as a person would say it."""
    if isinstance(found, dict):
        return ", ".join(f"{name} {in_words(value)}" for name, value in found.items())
    return " and ".join(map(str, found)) or "none" if isinstance(found, list) else str(found)


# --- what is proven ---


@dataclass
class Report:
    """Prints each claim with what the witnesses say, and remembers whether all agreed."""

    wrong: int = 0
    proven: list[str] = field(default_factory=list)

    def scene(self, title: str) -> None:
        print(f"\n{len(self.proven) + 1}. {title}", flush=True)

    def happens(self, sentence: str) -> None:
        print(f"     {sentence}", flush=True)

    def history(self, events: list[Json], shown: Mapping[str, str] = SHOWN) -> None:
        for line in timeline(events, shown):
            print(f"  {line}")

    def check(self, claim: str, found: Any, expected: Any) -> None:
        agrees = found == expected
        self.wrong += not agrees
        contrast = "" if agrees else f"  <-- expected: {in_words(expected)}"
        print(f"     {'ok   ' if agrees else 'WRONG'}  {claim}: {in_words(found)}{contrast}", flush=True)

    def proves(self, sentence: str) -> None:
        self.proven.append(sentence)


@dataclass(frozen=True)
class Stage:
    house: House
    shop: Mapping[str, Server]
    bank: PaymentServers
    events: EventServices
    report: Report

    def run(self, saga: str, key: str, saga_input: Json) -> Json:
        """Waits until it is at rest and shows what happened."""
        done = self.house.submit(saga, key, saga_input, wait_seconds=REST_SECONDS)
        self.report.history(self.house.events(done["id"]))
        return done

    def place(self, order_id: str, **changes: Any) -> str:
        """As a customer of the services that only know events. Returns the key of the saga that is seen in them."""
        fetch(f"{self.events.order.url}/orders", body=PLACED | {"order_id": order_id} | changes)
        return f"order-events:{order_id}"

    def follow(self, key: str) -> Json:
        """Waits until it is at rest and shows what was seen."""
        until(lambda: (self.house.find(key) or {}).get("finished_at"), f"end of {key}", REST_SECONDS)
        done = self.house.find(key) or {}
        self.report.happens(f"saga show {key}")
        self.report.history(self.house.events(done["id"]), SHOWN_OF_EVENTS)
        return done

    def check_databases(self, order_id: str, expected: Json) -> None:
        """The services do not wait for each other: what is expected may still be on its way to one of them."""
        with suppress(TimeoutError):
            until(lambda: ledgers_say(self.events.databases, order_id) == expected, "agreement", SETTLE_SECONDS)
        self.report.check("the three databases say", ledgers_say(self.events.databases, order_id), expected)

    def shop_says(self, saga_id: str) -> dict[str, str]:
        """For each service, what it did for this saga: `nothing`, `done` or `undone`."""
        said = {}
        for name, server in self.shop.items():
            entries = fetch(f"{server.url}/ledger?saga_id={saga_id}")["entries"]
            done = [entry["operation"] for entry in entries if entry["state"] == "done"]
            said[name] = {"": "nothing", "action": "done", "action compensation": "undone"}[" ".join(done)]
        return said

    def asked(self, saga: Json) -> list[str]:
        """The steps whose compensation the orchestrator asked for, in that order."""
        return [each["step"] for each in self.house.events(saga["id"]) if each["type"] == "CompensationStarted"]

    def attempts_seen(self, service: str, saga_id: str) -> list[int]:
        entries = fetch(f"{self.shop[service].url}/ledger?saga_id={saga_id}")["entries"]
        return [attempt for entry in entries for attempt in entry["attempts"]]

    def bank_says(self, saga_id: str) -> Json:
        booked = asyncio.run(ledger_holds(self.bank.ledger_url, saga_id))
        return {
            "intents": [intent["status"] for intent in psp_holds(self.bank.psp.url, saga_id)],
            "booked": booked["booked"],
            "reversed": booked["reversed"],
            "mails": len(mailbox_holds(self.bank.mail_directory, saga_id)),
        }


def order_that_completes(stage: Stage) -> None:
    stage.report.scene("An order that completes")
    saga = stage.run("order", "demo-1", ORDER)
    stage.report.check("it ended as", saga["state"], "COMPLETED")
    everything = {"inventory": "done", "payment": "done", "order": "done"}
    stage.report.check("the ledgers say", stage.shop_says(saga["id"]), everything)
    again = stage.house.submit("order", "demo-1", ORDER)
    stage.report.check("submitted again it is still", again["id"], saga["id"])
    stage.report.proves("an order that can be done is done, once, also when it is submitted twice")


def order_that_is_refused_at_its_end(stage: Stage) -> None:
    stage.report.scene("An order whose last step is refused")
    saga = stage.run("order", "demo-2", ORDER | {"confirm": "refuse"})
    stage.report.check("it ended as", saga["state"], "FAILED")
    undone = {"inventory": "undone", "payment": "undone", "order": "nothing"}
    stage.report.check("the ledgers say", stage.shop_says(saga["id"]), undone)
    events = stage.house.events(saga["id"])
    order = [event["step"] for event in events if event["type"] == "CompensationSucceeded"]
    stage.report.check("undone in this order", order, ["charge-payment", "reserve-inventory"])
    stage.report.proves("a refusal undoes what was done, in reverse order")


def order_whose_payment_service_is_down(stage: Stage) -> None:
    stage.report.scene("An order whose payment service is down at first")
    stage.shop["payment"].stop()
    stage.report.happens("The payment service is stopped.")
    saga = stage.house.submit("order", "demo-3", ORDER)

    def has_failed_twice() -> bool:
        types = [event["type"] for event in stage.house.events(saga["id"])]
        return types.count("StepAttemptFailed") >= 2

    until(has_failed_twice, "second failed attempt", REST_SECONDS)
    stage.shop["payment"].start()
    stage.report.happens("Two attempts have failed; the payment service is started again.")
    saga = stage.run("order", "demo-3", ORDER)
    stage.report.check("it ended as", saga["state"], "COMPLETED")
    everything = {"inventory": "done", "payment": "done", "order": "done"}
    stage.report.check("the ledgers say", stage.shop_says(saga["id"]), everything)
    seen = len(stage.attempts_seen("payment", saga["id"]))
    stage.report.check("calls that reached the payment service", seen, 1)
    stage.report.proves("a service that is down is asked again until it is back")


def order_whose_worker_is_killed(stage: Stage) -> None:
    stage.report.scene("An order whose worker is killed (SIGKILL) while the payment service answers it")
    slowly = ORDER | {"delay": {"charge": 30}}
    saga = stage.house.submit("order", "demo-4", slowly)
    until(lambda: stage.shop_says(saga["id"])["payment"] == "done", "charge", REST_SECONDS)
    killed = stage.house.kill_workers()
    stage.report.happens(f"The card is charged, the answer is still to come: {' and '.join(killed)} are killed.")
    saga = stage.run("order", "demo-4", slowly)
    stage.report.check("it ended as", saga["state"], "COMPLETED")
    lost = [event["step"] for event in stage.house.events(saga["id"]) if event["type"] == "StepAttemptLost"]
    stage.report.check("a worker was lost while it carried out", lost, ["charge-payment"])
    everything = {"inventory": "done", "payment": "done", "order": "done"}
    stage.report.check("the ledgers say", stage.shop_says(saga["id"]), everything)
    seen = stage.attempts_seen("payment", saga["id"])
    stage.report.check("attempts that reached the payment service", seen, [1, 2])
    stage.report.proves("a killed worker loses nothing: its call is repeated with its key, and took effect once")


def payment_that_completes(stage: Stage) -> None:
    stage.report.scene("A payment that completes")
    saga = stage.run("payment", "demo-5", PAYMENT)
    stage.report.check("it ended as", saga["state"], "COMPLETED")
    held = {"intents": ["requires_capture"], "booked": 1, "reversed": 0, "mails": 1}
    stage.report.check("provider, books and mailbox say", stage.bank_says(saga["id"]), held)
    stage.report.proves("a payment is held, booked and confirmed, though its provider knows no idempotency key")


def payment_whose_ledger_fails(stage: Stage) -> None:
    stage.report.scene("A payment that the ledger refuses: the merchant's account is closed")
    saga = stage.run("payment", "demo-6", PAYMENT | {"merchant": "closed-shop"})
    stage.report.check("it ended as", saga["state"], "FAILED")
    released = {"intents": ["canceled"], "booked": 0, "reversed": 0, "mails": 0}
    stage.report.check("provider, books and mailbox say", stage.bank_says(saga["id"]), released)
    stage.report.proves("where the books say no, the money on the card is free again and no mail was sent")


def payment_whose_mail_fails(stage: Stage) -> None:
    stage.report.scene("A payment whose mail cannot be sent: what is booked is reversed")
    stage.bank.smtp.stop()
    stage.report.happens("The mail server is stopped.")
    try:
        saga = stage.run("payment", "demo-7", PAYMENT)
    finally:
        stage.bank.smtp.start()
    stage.report.check("it ended as", saga["state"], "FAILED")
    reversed_ = {"intents": ["canceled"], "booked": 1, "reversed": 1, "mails": 0}
    stage.report.check("provider, books and mailbox say", stage.bank_says(saga["id"]), reversed_)
    stage.report.proves("a step that goes on failing is given up, and what was booked is reversed, not erased")


def events_that_complete(stage: Stage) -> None:
    stage.report.scene("An order of services that only know events, and that nobody calls")
    saga = stage.follow(stage.place("demo-8"))
    stage.report.check("it was seen to end as", saga["state"], "COMPLETED")
    stage.check_databases("demo-8", {"reserved": 2, "charged": 4000, "order": "confirmed"})
    stage.report.proves("services that only know events carry out an order together, and it is seen as a saga")


def events_of_a_refused_payment(stage: Stage) -> None:
    stage.report.scene("The same with a card that is declined")
    saga = stage.follow(stage.place("demo-9", card="declined"))
    stage.report.check("it was seen to end as", saga["state"], "FAILED")
    stage.report.check("asked to compensate", stage.asked(saga), [])
    stage.check_databases("demo-9", {"reserved": 0, "charged": 0, "order": "cancelled"})
    stage.report.proves("a failure event is enough: services undo by themselves what they did")


def events_of_a_silent_service(stage: Stage) -> None:
    stage.report.scene("The same with a payment service that is silent")
    stage.events.payment.stop()
    stage.report.happens("The payment service is stopped.")
    key = stage.place("demo-10")
    gone = {"reserved": 0, "charged": 0, "order": "cancelled"}
    until(lambda: ledgers_say(stage.events.databases, "demo-10") == gone, "released stock", REST_SECONDS)
    stage.events.payment.start()
    stage.report.happens("It was out of time, and the stock is released; the payment service is started again.")
    saga = stage.follow(key)
    stage.report.check("it was seen to end as", saga["state"], "FAILED")
    stage.report.check("asked to compensate first", stage.asked(saga)[:2], ["ProcessPayment", "ReserveInventory"])
    stage.check_databases("demo-10", gone)
    stage.report.proves("where a service is silent all are made to compensate, that one too, once it is back")


def check_the_sums(stage: Stage) -> None:
    """What was done twice, or undone halfway, would show here."""
    print("\nThe sums over all orders, of which three completed, and one of those that only events tell of")
    holdings = {name: fetch(f"{server.url}/ledger")["holdings"] for name, server in stage.shop.items()}
    stage.report.check("books in stock", holdings["inventory"]["book"], 100_000 - 3 * ORDER["quantity"])
    stage.report.check("cents charged", sum(holdings["payment"].values()), 3 * ORDER["amount"])
    stage.report.check("orders confirmed", sum(holdings["order"].values()), 3)
    once = {"books": 100 - PLACED["quantity"], "charged": PLACED["cents"], "confirmed": 1, "placed": 0}
    stage.report.check("the databases behind the events say", sums_say(stage.events.databases), once)


SCENES = (
    order_that_completes,
    order_that_is_refused_at_its_end,
    order_whose_payment_service_is_down,
    order_whose_worker_is_killed,
    payment_that_completes,
    payment_whose_ledger_fails,
    payment_whose_mail_fails,
    events_that_complete,
    events_of_a_refused_payment,
    events_of_a_silent_service,
)


def run(directory: Path) -> int:
    """How many claims were wrong."""
    report = Report()
    began = time.monotonic()
    with ExitStack() as stack:
        print("Starting three shop services, a payment provider, books and a mailbox ...", flush=True)
        shop = stack.enter_context(order_services(directory / "shop"))
        bank = stack.enter_context(payment_servers(directory / "bank"))
        print("Starting the orchestrator: saga up ...", flush=True)
        sagas = write_sagas(directory / "sagas", shop)
        # A lost worker's call is given up after its timeout and this; the default is 5.
        environment = bank.environment | {"SAGA_LEASE_GRACE": "2"}
        orchestrator = stack.enter_context(house(directory / "house", sagas, environment))
        print("Starting three services that only know events ...", flush=True)
        events = stack.enter_context(event_services(directory / "events", orchestrator.redis_url))
        stage = Stage(orchestrator, shop, bank, events, report)
        for scene in SCENES:
            scene(stage)
        check_the_sums(stage)
    print(f"\nAfter {time.monotonic() - began:.0f} seconds", end=" ")
    if report.wrong:
        print(f"{report.wrong} of the claims above are WRONG.")
    else:
        print("every ledger agrees. Proven:")
        for sentence in report.proven:
            print(f"  - {sentence}")
    return report.wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="keep all data in this new directory, to look at it afterwards")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    directory = (arguments.keep or Path(tempfile.mkdtemp(prefix="saga-demo-"))).absolute()
    failed = True
    try:
        failed = run(directory) > 0
    except (RuntimeError, OSError) as error:
        body = error.read().decode(errors="replace") if isinstance(error, HTTPError) else ""
        print(f"The demonstration could not go on: {error} {body}", file=sys.stderr)
    except KeyboardInterrupt:
        failed = False
        sys.exit(130)
    finally:
        if failed or arguments.keep:
            print(f"Logs and ledgers are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
