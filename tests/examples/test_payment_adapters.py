"""The functions of examples/payment against localstripe, PostgreSQL and an SMTP server, as a worker calls them."""

import asyncio
import importlib.util
import inspect
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from examples.payment.checks import ledger_holds, mailbox_holds, psp_holds
from examples.processes import HERE, payment_servers
from saga_participant import Call, Refused, handlers_of

INPUT = {"amount": 4000, "currency": "eur", "card": "pm_card_visa", "merchant": "bookshop", "email": "a@b.example"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with payment_servers(tmp_path_factory.mktemp("payment")) as running:
        yield running


@pytest.fixture(scope="module")
def handlers(servers):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.environment.items():
            patch.setenv(name, value)
        found = [load(HERE / f"payment/sagas/{name}.py") for name in ("psp", "ledger", "mail")]
    return {name: function for module in found for name, function in handlers_of(module).items()}


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"payment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Saga:
    """Calls the handlers as a worker would, for one saga."""

    def __init__(self, servers, handlers):
        self.id = str(uuid.uuid4())
        self._servers = servers
        self._handlers = handlers

    def build(self, step, *, undo=False, seconds=20.0, **changes):
        key = f"{self.id}/{step}"
        return Call(
            saga_id=self.id,
            saga="payment",
            step=step,
            operation="compensation" if undo else "action",
            attempt=1,
            input=INPUT | changes,
            outputs={},
            output=None,
            idempotency_key=f"{key}/compensation" if undo else key,
            deadline=datetime.now(UTC) + timedelta(seconds=seconds),
        )

    async def call(self, name, call):
        function = self._handlers[name]
        if inspect.iscoroutinefunction(function):
            return await function(call)
        return await asyncio.to_thread(function, call)

    async def create(self, **changes):
        return await self.call("create-intent", self.build("create", **changes))

    async def cancel(self):
        return await self.call("cancel-intent", self.build("create", undo=True))

    async def authorise(self, intent, **changes):
        return await self.call("authorise", self.build("authorise", intent=intent, **changes))

    async def void(self, intent):
        return await self.call("void", self.build("authorise", undo=True, intent=intent))

    async def book(self, **changes):
        return await self.call("book", self.build("book", **changes))

    async def reverse(self):
        return await self.call("reverse", self.build("book", undo=True))

    async def send(self, **changes):
        return await self.call("send", self.build("send", **changes))

    def intents(self):
        return [intent["status"] for intent in psp_holds(self._servers.psp.url, self.id)]

    async def books(self):
        return await ledger_holds(self._servers.ledger_url, self.id)

    def mails(self):
        return mailbox_holds(self._servers.mail_directory, self.id)


@pytest.fixture
def saga(servers, handlers):
    return Saga(servers, handlers)


def test_both_kinds_of_function_are_shown(handlers):
    assert {name for name, each in handlers.items() if inspect.iscoroutinefunction(each)} == {"book", "reverse"}
    assert set(handlers) == {"create-intent", "cancel-intent", "authorise", "void", "book", "reverse", "send"}


# --- the provider ---


async def test_money_is_held_and_given_free(saga):
    intent = (await saga.create())["intent"]
    assert saga.intents() == ["requires_confirmation"]
    assert await saga.authorise(intent) == {"intent": intent, "status": "requires_capture"}
    assert saga.intents() == ["requires_capture"]
    assert await saga.void(intent) == {"voided": intent}
    assert await saga.cancel() == {"cancelled": [intent]}
    assert saga.intents() == ["canceled"]


async def test_repeated_calls_to_the_provider_are_answered_as_before(saga):
    created = await saga.create()
    assert await saga.create() == created
    authorised = await saga.authorise(created["intent"])
    assert await saga.authorise(created["intent"]) == authorised
    assert await saga.void(created["intent"]) == await saga.void(created["intent"])
    assert await saga.cancel() == await saga.cancel()
    assert saga.intents() == ["canceled"]


async def test_equal_creates_at_once_agree_on_one_intent(saga):
    answers = await asyncio.gather(*(saga.create() for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert await saga.create() == answers[0]
    assert saga.intents().count("requires_confirmation") == 1
    assert saga.intents()[0] == "requires_confirmation"


async def test_equal_authorisations_at_once_hold_the_money_once(saga):
    intent = (await saga.create())["intent"]
    answers = await asyncio.gather(*(saga.authorise(intent) for _ in range(8)))
    assert all(answer == {"intent": intent, "status": "requires_capture"} for answer in answers)
    assert saga.intents() == ["requires_capture"]


async def test_equal_compensations_at_once_are_one(saga):
    intent = (await saga.create())["intent"]
    await saga.authorise(intent)
    assert await asyncio.gather(*(saga.void(intent) for _ in range(8))) == [{"voided": intent}] * 8
    assert saga.intents() == ["canceled"]


async def test_a_create_that_comes_after_its_cancel_is_refused(saga):
    await saga.cancel()
    with pytest.raises(Refused):
        await saga.create()
    assert set(saga.intents()) == {"canceled"}


async def test_an_intent_that_was_cancelled_is_neither_created_nor_authorised_again(saga):
    intent = (await saga.create())["intent"]
    await saga.void(intent)
    with pytest.raises(Refused):
        await saga.authorise(intent)
    with pytest.raises(Refused):
        await saga.create()
    assert saga.intents() == ["canceled"]


async def test_a_declined_card_is_a_refusal_each_time(saga):
    intent = (await saga.create(card="pm_card_chargeCustomerFail"))["intent"]
    for _ in range(2):
        with pytest.raises(Refused):
            await saga.authorise(intent)
    assert saga.intents() == ["requires_payment_method"]
    await saga.cancel()
    assert saga.intents() == ["canceled"]


async def test_an_amount_that_the_provider_does_not_take_is_a_refusal(saga):
    with pytest.raises(Refused):
        await saga.create(amount=-1)
    assert saga.intents() == []


async def test_the_intent_of_another_saga_is_left_alone(saga, servers, handlers):
    other = Saga(servers, handlers)
    await other.create()
    await saga.create()
    await saga.cancel()
    assert other.intents() == ["requires_confirmation"]


async def test_more_intents_than_fit_on_a_page_of_the_provider(saga, servers):
    intent = {"amount": "1", "currency": "eur"}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk_test_others"}) as session:
        for _ in range(101):
            async with session.post(f"{servers.psp.url}/v1/payment_intents", data=intent) as response:
                assert response.status == 200
    created = await saga.create()
    assert await saga.create() == created
    assert len(saga.intents()) == 1


async def test_a_provider_that_is_killed_has_lost_nothing(saga, servers):
    created = await saga.create()
    await saga.authorise(created["intent"])
    servers.psp.kill()
    with pytest.raises(Exception, match="communicating with Stripe"):
        await saga.create()
    servers.psp.start()
    assert await saga.create() == created
    assert saga.intents() == ["requires_capture"]


def test_localstripe_writes_nothing_into_the_common_tmp(saga, servers):
    asyncio.run(saga.create())
    assert (servers.mail_directory.parent / "psp/localstripe.pickle").exists()
    assert not Path("/tmp/localstripe.pickle").exists()


def test_an_address_outside_of_this_machine_is_refused(monkeypatch):
    monkeypatch.setenv("PAYMENT_PSP_URL", "https://api.stripe.com")
    with pytest.raises(RuntimeError, match="never leaves the machine"):
        load(HERE / "payment/sagas/psp.py")


# --- the ledger ---


async def test_a_booking_and_its_reversal_balance(saga):
    await saga.book()
    assert await saga.books() == {"booked": 1, "reversed": 0, "owed": {"bookshop": 4000}}
    await saga.reverse()
    assert await saga.books() == {"booked": 1, "reversed": 1, "owed": {"bookshop": 0}}


async def test_repeated_bookings_and_reversals_are_answered_as_before(saga):
    assert await saga.book() == await saga.book()
    assert await saga.reverse() == await saga.reverse()
    assert await saga.books() == {"booked": 1, "reversed": 1, "owed": {"bookshop": 0}}


async def test_equal_bookings_at_once_are_one(saga):
    answers = await asyncio.gather(*(saga.book() for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert (await saga.books())["booked"] == 1
    answers = await asyncio.gather(*(saga.reverse() for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert (await saga.books())["reversed"] == 1


async def test_a_booking_that_comes_after_its_reversal_is_refused(saga):
    assert await saga.reverse() == await saga.reverse() == {"reversed": None}
    with pytest.raises(Refused):
        await saga.book()
    assert (await saga.books())["booked"] == 0


async def test_a_reversed_booking_stays_reversed(saga):
    await saga.book()
    await saga.reverse()
    with pytest.raises(Refused):
        await saga.book()
    assert await saga.books() == {"booked": 1, "reversed": 1, "owed": {"bookshop": 0}}


async def test_a_booking_and_its_reversal_at_once_leave_nothing_owed(saga):
    booked, reversed_ = await asyncio.gather(saga.book(), saga.reverse(), return_exceptions=True)
    assert not isinstance(reversed_, BaseException)
    if reversed_["reversed"] is None:
        assert isinstance(booked, Refused)
    assert sum((await saga.books())["owed"].values()) == 0


@pytest.mark.parametrize("merchant", ["closed-shop", "unheard of"])
async def test_a_closed_account_is_a_refusal_that_is_not_stored(saga, merchant):
    with pytest.raises(Refused, match="closed"):
        await saga.book(merchant=merchant)
    assert (await saga.books())["booked"] == 0
    await saga.book()
    assert (await saga.books())["booked"] == 1


# --- the mail ---


async def test_a_second_copy_of_a_mail_can_be_recognised(saga):
    answer = await saga.send()
    assert await saga.send() == answer
    (mail,) = saga.mails()
    assert mail["message_id"] == answer["message_id"]
    assert mail["to"] == ["a@b.example"]
    assert mail["deliveries"] == 2


# --- deadlines ---


@pytest.mark.parametrize(
    ("name", "undo"),
    [
        ("create-intent", False),
        ("cancel-intent", True),
        ("authorise", False),
        ("void", True),
        ("book", False),
        ("reverse", True),
        ("send", False),
    ],
)
async def test_nothing_takes_effect_after_the_deadline(saga, name, undo):
    intent = (await saga.create())["intent"]
    late = replace(saga.build("late", undo=undo, seconds=-1), input=INPUT | {"intent": intent})
    with pytest.raises(TimeoutError):
        await saga.call(name, late)
    assert saga.intents() == ["requires_confirmation"]
    assert (await saga.books())["booked"] == 0
    assert saga.mails() == []
