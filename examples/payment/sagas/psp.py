"""The payment service provider: an intent is created and authorised, or voided and cancelled.

Plain functions, because the client library blocks; the worker runs them in threads. Nobody can stop a thread
after its timeout, so each request is given no longer than what is left until `call.deadline`.

Stripe itself keeps an Idempotency-Key for a day and answers a repeated one from memory; we send it. The
localstripe of this example ignores it, as many providers do, so the adapter has to be idempotent by itself.
It writes the key into the intent's metadata and looks there before it creates another:

- `GET /v1/payment_intents` is read in full, since localstripe filters by nothing and knows no search.
  (Stripe's own search would not do either: it may be a minute behind.)
- Two equal calls at once may both find nothing and both create. Hence each looks again afterwards: the first
  on the list wins for everybody, and the others, which hold no money yet, are cancelled.
- A cancelled intent with the key says that the step was undone. Where cancelling finds no intent it makes
  one and cancels that, so that a create which arrives late is refused.

The later operations need no key: an intent is authorised once and cancelled for good, whoever asks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import stripe

from saga_participant import Call, Refused, handler

PSP_URL = os.environ.get("PAYMENT_PSP_URL", "http://127.0.0.1:9011")
if urlsplit(PSP_URL).hostname not in {"127.0.0.1", "::1", "localhost"}:
    raise RuntimeError(f"PAYMENT_PSP_URL is {PSP_URL}: this example never leaves the machine")


@handler("create-intent")
def create_intent(call: Call) -> dict[str, Any]:
    with provider(call) as psp:
        first, *others = intents_of(psp, call)
        for intent in others:
            cancel(psp, intent)
        if first.status == "canceled":
            raise Refused("this payment was called off already")
        return {"intent": first.id}


@handler("cancel-intent")
def cancel_intent(call: Call) -> dict[str, Any]:
    with provider(call) as psp:
        cancelled = [cancel(psp, intent) for intent in intents_of(psp, call)]
        return {"cancelled": cancelled}


@handler("authorise")
def authorise(call: Call) -> dict[str, Any]:
    """Holds the money on the card; it is taken when somebody captures it, when the goods are sent."""
    with provider(call) as psp:
        intent = psp.v1.payment_intents.retrieve(call.input["intent"])
        if intent.status == "requires_confirmation":
            try:
                intent = psp.v1.payment_intents.confirm(intent.id, options={"idempotency_key": call.idempotency_key})
            except stripe.InvalidRequestError:  # an equal call was faster, or it was cancelled just now
                intent = psp.v1.payment_intents.retrieve(intent.id)
        if intent.status == "processing":
            raise RuntimeError("the bank has not decided yet")  # unknown: ask again
        if intent.status not in {"requires_capture", "succeeded"}:
            raise Refused(f"the card was not authorised: the intent is {intent.status}")
        return {"intent": intent.id, "status": intent.status}


@handler("void")
def void(call: Call) -> dict[str, Any]:
    """Gives the money free. Stripe does that by cancelling; a cancelled intent cannot be authorised later.

    Money that was captured meanwhile cannot be voided: Stripe refuses, and a person has to look.
    """
    with provider(call) as psp:
        return {"voided": cancel(psp, psp.v1.payment_intents.retrieve(call.input["intent"]))}


@contextmanager
def provider(call: Call) -> Iterator[stripe.StripeClient]:
    """A client whose requests end with the call, and whose refusals are refusals of the step."""
    left_seconds = (call.deadline - datetime.now(UTC)).total_seconds()
    if left_seconds <= 0:
        raise TimeoutError("the deadline has passed; nothing was asked of the provider")
    with requests.Session() as session:
        session.trust_env = False  # no proxy of the environment between us and loopback
        try:
            yield stripe.StripeClient(
                "sk_test_localstripe",
                base_addresses={"api": PSP_URL},
                max_network_retries=0,  # repeating is the orchestrator's business
                http_client=stripe.RequestsClient(timeout=left_seconds, session=session),
            )
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            raise Refused(error.user_message or str(error)) from error


def intents_of(psp: stripe.StripeClient, call: Call) -> list[stripe.PaymentIntent]:
    """The intents of this step, oldest first; one is made where there is none."""
    key = call.idempotency_key.removesuffix("/compensation")
    if not (intents := carrying(psp, key)):
        psp.v1.payment_intents.create(
            {
                "amount": call.input["amount"],
                "currency": call.input["currency"],
                "payment_method": call.input["card"],
                "capture_method": "manual",
                "metadata": {"saga_id": call.saga_id, "saga_key": key},
            },
            {"idempotency_key": key},
        )
        intents = carrying(psp, key)
    return intents


def carrying(psp: stripe.StripeClient, key: str) -> list[stripe.PaymentIntent]:
    # localstripe lists the oldest first and Stripe the newest; within a second localstripe's order is kept.
    intents = psp.v1.payment_intents.list({"limit": 100}).auto_paging_iter()
    ours = [each for each in intents if getattr(each.metadata, "saga_key", None) == key]
    return sorted(ours, key=lambda each: each.created)


def cancel(psp: stripe.StripeClient, intent: stripe.PaymentIntent) -> str:
    """Cancels it unless that was done before; its id."""
    if intent.status != "canceled":
        try:
            psp.v1.payment_intents.cancel(intent.id)
        except stripe.InvalidRequestError:
            if psp.v1.payment_intents.retrieve(intent.id).status != "canceled":
                raise
    return intent.id
