"""What arrives over HTTP: signatures against the library that the orchestrator signs with, and what is no call."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from app.participants.http import HttpParticipant
from app.saga.service import Service
from saga_participant import Call, Refused, Retry
from saga_participant.calls import read_call
from tests.participants.attempts import ATTEMPT, UNDOING

OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_bmV3IGFuZCBxdWl0ZSBzZWNyZXQga2V5"
BODY = {
    "saga_id": "0199-1",
    "saga": "order",
    "step": "charge",
    "operation": "action",
    "attempt": 2,
    "input": {"card": "\N{PILE OF POO}"},
    "outputs": {"reserve": {"n": 1}},
    "output": None,
}
KEY = "0199-1/charge"


def request(body=BODY, key=KEY, **more):
    return {"Idempotency-Key": key, "Saga-Deadline": "2026-11-21T22:40:12.345Z", **more}, json.dumps(body).encode()


def signed(*secrets, body=BODY, key=KEY, at=None, message_id=None):
    headers, content = request(body, key)
    at, message_id = at or datetime.now(UTC), message_id or f"{key}/{body['attempt']}"
    signatures = " ".join(Webhook(secret).sign(message_id, at, content.decode()) for secret in secrets)
    more = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp())), "Webhook-Signature": signatures}
    return headers | more, content


def test_a_request_becomes_a_call():
    call = read_call(*request(**{"Saga-Callback-Url": "http://127.0.0.1/callbacks/t", "traceparent": "00-1-2-01"}))
    assert (call.saga_id, call.step, call.attempt, call.generation) == ("0199-1", "charge", 2, 0)
    assert call.deadline == datetime(2026, 11, 21, 22, 40, 12, 345000, UTC)
    assert call.callback_url == "http://127.0.0.1/callbacks/t"
    assert Call.from_json(call.to_json()) == call


@pytest.mark.parametrize("attempt", [ATTEMPT, UNDOING], ids=["action", "compensation"])
def test_what_the_orchestrator_sends_is_what_the_kit_reads(attempt):
    body, participant = attempt.body(), HttpParticipant(None, Service("shop", "http://shop", secrets=(OLD, NEW)), 1000)
    call = read_call(participant._headers(attempt, body), body, secrets=[NEW])
    assert (call.saga_id, call.saga, call.step) == (attempt.saga_id, attempt.saga, attempt.step)
    assert (call.operation, call.attempt) == (attempt.operation, attempt.number)
    assert call.input == json.loads(attempt.input)
    assert call.output == json.loads(attempt.output or b"null")
    assert call.outputs == {"reserve": {"id": [1, 2]}}
    assert (call.idempotency_key, call.deadline) == (attempt.key, attempt.deadline)
    assert (call.callback_url, call.traceparent) == (attempt.callback_url, attempt.traceparent)


@pytest.mark.parametrize(
    ("key", "generation"),
    [("", 0), ("/compensation", 0), ("~1", 1), ("~12/compensation", 12), ("~0", 0), ("~x", 0), ("~1~2", 0)],
)
def test_the_generation_is_what_stands_behind_the_step(key, generation):
    assert read_call(*request(key=KEY + key)).generation == generation


def test_any_of_several_secrets_will_do():
    for secrets in ([OLD], [OLD, NEW], [NEW]):
        assert read_call(*signed(*secrets), secrets=[OLD, NEW]).saga_id == "0199-1"
    assert read_call(*signed(OLD, NEW), secrets=[NEW]).saga_id == "0199-1"


def changed(headers, content, **more):
    return headers | {name.replace("_", "-"): value for name, value in more.items()}, content


@pytest.mark.parametrize(
    "forged",
    [
        request(),
        signed(NEW),
        (signed(OLD)[0], signed(OLD)[1].replace(b"charge", b"refund")),
        signed(OLD, message_id="0199-1/charge/3"),
        signed(OLD, at=datetime.now(UTC) - timedelta(hours=1)),
        signed(OLD, at=datetime.now(UTC) + timedelta(hours=1)),
        changed(*signed(OLD), webhook_timestamp="soon"),
        changed(*signed(OLD), webhook_id="other"),
        changed(*signed(OLD), Webhook_Signature="v1, v1,\N{PILE OF POO} v2 , v1"),
        changed(*signed(OLD), Idempotency_Key=KEY + "~1"),
    ],
    ids=["unsigned", "secret", "body", "attempt", "old", "future", "no time", "id", "nonsense", "key"],
)
def test_what_was_not_signed_so_is_not_let_in(forged):
    with pytest.raises(Refused) as refused:
        read_call(*forged, secrets=[OLD])
    assert refused.value.status == 401


@pytest.mark.parametrize(
    "wrong",
    [
        (request()[0], b"{"),
        (request()[0], b"[]"),
        (request()[0], b"[" * 100_000),
        (request()[0], b"\xff"),
        ({}, request()[1]),
        request(BODY | {"saga_id": 1}),
        request(BODY | {"saga_id": "a\0b"}),
        request(BODY | {"saga_id": "\ud800"}),
        request(BODY | {"operation": "undo"}),
        request(BODY | {"attempt": None}),
        request(**{"Saga-Deadline": "tomorrow"}),
        request(**{"Saga-Deadline": "2026-11-21T22:40:12"}),
    ],
    ids=lambda wrong: "wrong",
)
def test_what_is_no_call_is_refused_with_400(wrong):
    with pytest.raises(Refused) as refused:
        read_call(*wrong)
    assert refused.value.status == 400


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["idempotency-key", "webhook-id", "webhook-signature"]), st.text()), st.binary())
def test_nothing_that_is_sent_is_a_fault_of_ours(headers, body):
    for secrets in ([], [OLD]):
        with pytest.raises(Refused):
            read_call(headers, body, secrets)


@pytest.mark.parametrize("status", [200, 408, 425, 429, 500])
def test_a_refusal_is_a_status_that_the_orchestrator_does_not_repeat(status):
    with pytest.raises(ValueError, match="no refusal"):
        Refused("no", status=status)


def test_the_words_are_what_was_said():
    assert str(Refused("sold out")) == str(Retry("sold out")) == "sold out"
    assert Refused("sold out").status == 422
