"""What an HTTP participant is sent, and what its answers mean: section 4 of the contract, row by row."""

import asyncio
import contextlib
import errno
import gzip
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from standardwebhooks import Webhook, WebhookVerificationError

from app.participants.contract import Attempt
from app.participants.http import HttpParticipant, judge
from app.saga.definition import Statuses
from app.saga.messages import Outcome, OutcomeKind
from app.saga.service import Service
from tests.participant import (
    CUT,
    DONE_BUT_CUT,
    DONE_BUT_MALFORMED,
    MALFORMED,
    OK,
    Behaviour,
    Hold,
    Participant,
    answers,
    closed_port,
)
from tests.waiting import until

from .attempts import ATTEMPT, LIMIT, UNDOING

SUCCEEDED, REFUSED, PENDING, UNKNOWN, NOT_SENT = (
    OutcomeKind.SUCCEEDED,
    OutcomeKind.REFUSED,
    OutcomeKind.PENDING,
    OutcomeKind.UNKNOWN,
    OutcomeKind.NOT_SENT,
)
PROBLEM = "application/problem+json"
SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")


class Call:
    """One call to the participant of the test."""

    def __init__(self, participant: Participant, session: aiohttp.ClientSession) -> None:
        self.participant, self.session = participant, session

    async def __call__(self, behaviour: Behaviour = OK, attempt: Attempt = ATTEMPT, **service: Any) -> Outcome:
        self.participant.on(attempt.step, behaviour, operation=attempt.operation)
        known = Service(**{"name": "payment", "url": self.participant.url, **service})
        return await HttpParticipant(self.session, known, LIMIT)(attempt)


@pytest.fixture
def call(participant: Participant, session: aiohttp.ClientSession) -> Call:
    return Call(participant, session)


# --- what it is sent --------------------------------------------------------------------------------------------


async def test_an_action_is_sent_exactly_this(call: Call, participant: Participant) -> None:
    await call()
    (asked,) = participant.asked
    assert asked.path == "charge-card"
    assert asked.content == (
        b'{"saga_id":"01991d6e-0000-7000-8000-000000000001","saga":"order","step":"charge","operation":"action",'
        b'"attempt":2,"input":{"amount":12.5,"text":"\xc3\xa9"},"outputs":{"reserve":{"id":[1,2]}},"output":null}'
    )
    assert asked.headers == {
        "Host": participant.url.removeprefix("http://"),
        "User-Agent": "saga-orchestrator",
        "Accept": "*/*",
        "Accept-Encoding": asked.headers["Accept-Encoding"],
        "Content-Type": "application/json",
        "Content-Length": str(len(asked.content)),
        "Idempotency-Key": "01991d6e-0000-7000-8000-000000000001/charge",
        "Saga-Id": "01991d6e-0000-7000-8000-000000000001",
        "Saga-Step": "charge",
        "Saga-Operation": "action",
        "Saga-Attempt": "2",
        "Saga-Deadline": "2026-01-02T03:04:05.678Z",
        "Saga-Callback-Url": "http://127.0.0.1:8000/callbacks/token",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }


async def test_a_compensation_goes_to_its_own_path_with_a_key_of_its_own(call: Call, participant: Participant) -> None:
    await call(attempt=UNDOING)
    (asked,) = participant.asked
    assert asked.path == "refund"
    assert asked.headers["Saga-Operation"] == "compensation"
    assert asked.headers["Idempotency-Key"] == "01991d6e-0000-7000-8000-000000000001/charge/compensation"
    assert asked.body["output"] == {"charge": 4711}


async def test_what_there_is_not_is_not_sent(call: Call, participant: Participant) -> None:
    await call(attempt=replace(ATTEMPT, callback_url=None, traceparent=None))
    (asked,) = participant.asked
    assert not {"Saga-Callback-Url", "traceparent", "webhook-id", "webhook-signature"} & set(asked.headers)


async def test_a_services_own_headers_are_sent_but_ours_stand(call: Call, participant: Participant) -> None:
    await call(headers={"X-Env": "test", "Idempotency-Key": "mine"})
    (asked,) = participant.asked
    assert asked.headers["X-Env"] == "test"
    assert asked.headers["Idempotency-Key"] == ATTEMPT.key


async def test_a_path_of_several_segments_and_a_base_with_a_path(call: Call, participant: Participant) -> None:
    await call(attempt=replace(ATTEMPT, name="stock/reserve"), url=f"{participant.url}/v1/")
    assert participant.asked[0].path == "v1/stock/reserve"


@pytest.mark.parametrize("secret", SECRETS)
async def test_the_signature_of_every_secret_is_verified_by_standardwebhooks(
    call: Call, participant: Participant, secret: str
) -> None:
    await call(secrets=SECRETS)
    (asked,) = participant.asked
    assert Webhook(secret).verify(asked.content, dict(asked.headers)) == asked.body
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(asked.content.replace(b"12.5", b"99.9"), dict(asked.headers))


async def test_every_attempt_is_a_message_of_its_own_to_the_signature(call: Call, participant: Participant) -> None:
    await call(secrets=SECRETS)
    await call(attempt=replace(ATTEMPT, number=3), secrets=SECRETS)
    first, second = (asked.headers["webhook-id"] for asked in participant.asked)
    assert first != second


async def test_proxies_of_the_environment_are_not_used(
    call: Call, participant: Participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Participant.serve() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert (await call()).kind is SUCCEEDED
        assert not proxy.asked
    assert participant.asked


async def test_a_redirect_is_not_followed(call: Call, participant: Participant) -> None:
    async with Participant.serve() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            outcome = await call(answers(status, Location=f"{elsewhere.url}/charge-card"))
            assert outcome.kind is UNKNOWN
            assert outcome.status == status
            assert outcome.may_run_seconds == 0
        assert not elsewhere.asked
    assert len(participant.asked) == 5


async def test_cookies_are_not_kept(call: Call, participant: Participant) -> None:
    await call(answers(200, {}, Set_Cookie="session=1; Path=/"))
    await call()
    assert "Cookie" not in participant.asked[1].headers


# --- what a whole answer means ----------------------------------------------------------------------------------

OVER, RUNS_ON = False, True
TABLE = [
    # status, action, compensation, whether the attempt may still run
    (200, SUCCEEDED, SUCCEEDED, OVER),
    (201, SUCCEEDED, SUCCEEDED, OVER),
    (204, SUCCEEDED, SUCCEEDED, OVER),
    (299, SUCCEEDED, SUCCEEDED, OVER),
    (202, PENDING, PENDING, OVER),
    (300, UNKNOWN, UNKNOWN, OVER),
    (304, UNKNOWN, UNKNOWN, OVER),
    (400, REFUSED, REFUSED, OVER),
    (401, REFUSED, REFUSED, OVER),
    (404, REFUSED, REFUSED, OVER),
    (408, UNKNOWN, UNKNOWN, OVER),
    (409, REFUSED, REFUSED, OVER),
    (410, REFUSED, SUCCEEDED, OVER),
    (418, REFUSED, REFUSED, OVER),
    (422, REFUSED, REFUSED, OVER),
    (425, UNKNOWN, UNKNOWN, OVER),
    (429, UNKNOWN, UNKNOWN, OVER),
    (499, REFUSED, REFUSED, OVER),
    (500, UNKNOWN, UNKNOWN, OVER),
    (501, UNKNOWN, UNKNOWN, OVER),
    (502, UNKNOWN, UNKNOWN, RUNS_ON),
    (503, UNKNOWN, UNKNOWN, OVER),
    (504, UNKNOWN, UNKNOWN, RUNS_ON),
    (599, UNKNOWN, UNKNOWN, OVER),
    (600, UNKNOWN, UNKNOWN, OVER),
]


@pytest.mark.parametrize(("status", "action", "compensation", "runs_on"), TABLE)
async def test_the_status_alone_decides(
    call: Call, status: int, action: OutcomeKind, compensation: OutcomeKind, runs_on: bool
) -> None:
    for attempt, kind in ((ATTEMPT, action), (UNDOING, compensation)):
        outcome = await call(answers(status, b"" if status in {204, 304} else {"status": "refused"}), attempt)
        assert outcome.kind is kind
        assert outcome.status == status
        assert not outcome.retriable
        if runs_on:
            assert attempt.timeout_seconds - 1 < outcome.may_run_seconds <= attempt.timeout_seconds
        else:
            assert outcome.may_run_seconds == 0


@pytest.mark.parametrize("attempt", [ATTEMPT, UNDOING])
async def test_a_conflict_after_an_unknown_attempt_may_be_the_first_one_at_work(call: Call, attempt: Attempt) -> None:
    assert (await call(answers(409), replace(attempt, after_unknown=True))).kind is UNKNOWN
    assert (await call(answers(409), attempt)).kind is REFUSED
    assert (await call(answers(422), replace(attempt, after_unknown=True))).kind is REFUSED


STATUSES = Statuses(refused=frozenset({423, 503}), retry=frozenset({409, 404, 500, 429, 200}), success=frozenset({405}))
OVERRIDDEN = [
    # status, kind, retriable, after an unknown attempt
    (423, REFUSED, False, REFUSED),
    (503, REFUSED, False, REFUSED),
    (405, SUCCEEDED, None, SUCCEEDED),
    (404, REFUSED, True, REFUSED),
    (409, REFUSED, True, UNKNOWN),
    (500, UNKNOWN, None, UNKNOWN),
    (429, UNKNOWN, None, UNKNOWN),
    (200, UNKNOWN, None, UNKNOWN),
    (422, REFUSED, False, REFUSED),
]


@pytest.mark.parametrize(("status", "kind", "retriable", "after_unknown"), OVERRIDDEN)
async def test_a_definition_may_say_otherwise_for_an_action(
    call: Call, status: int, kind: OutcomeKind, retriable: bool | None, after_unknown: OutcomeKind
) -> None:
    attempt = replace(ATTEMPT, statuses=STATUSES)
    outcome = await call(answers(status), attempt)
    assert (outcome.kind, outcome.retriable) == (kind, retriable)
    assert (await call(answers(status), replace(attempt, after_unknown=True))).kind is after_unknown


@pytest.mark.parametrize("status", [200, 404, 405, 423, 500, 503])
async def test_for_a_compensation_it_may_not(call: Call, status: int) -> None:
    with_, without = [(await call(answers(status), replace(UNDOING, statuses=s))) for s in (STATUSES, Statuses())]
    assert (with_.kind, with_.retriable) == (without.kind, without.retriable)


WORDS_ON_REPETITION = [
    # status, what it says, kind, retriable
    (500, True, UNKNOWN, True),
    (500, False, UNKNOWN, False),
    (503, False, UNKNOWN, False),
    (422, True, REFUSED, True),
    (422, False, REFUSED, False),
    (422, "true", REFUSED, False),
    (500, "false", UNKNOWN, None),
    (500, 0, UNKNOWN, None),
    (429, False, UNKNOWN, None),
    (502, False, UNKNOWN, None),  # a proxy's word
    (200, False, SUCCEEDED, None),
]


@pytest.mark.parametrize(("status", "says", "kind", "retriable"), WORDS_ON_REPETITION)
async def test_a_problem_may_say_whether_it_is_worth_repeating(
    call: Call, status: int, says: object, kind: OutcomeKind, retriable: bool | None
) -> None:
    for content_type in (PROBLEM, f"{PROBLEM}; charset=utf-8", PROBLEM.upper()):
        outcome = await call(answers(status, {"retriable": says}, Content_Type=content_type))
        assert (outcome.kind, outcome.retriable) == (kind, retriable)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"detail": {"a": 1}, "title": 7}', b"\xff\xfe", b'"x"'])
async def test_a_problem_that_is_none_says_nothing(call: Call, body: bytes) -> None:
    outcome = await call(answers(422, body, Content_Type=PROBLEM))
    assert (outcome.kind, outcome.retriable) == (REFUSED, False)


async def test_words_in_other_bodies_are_not_heard(call: Call) -> None:
    outcome = await call(answers(500, {"retriable": False, "status": "refused", "error": "declined"}))
    assert (outcome.kind, outcome.retriable) == (UNKNOWN, None)


async def test_what_a_problem_says_stands_in_the_message_and_can_be_stored(call: Call) -> None:
    body = {"title": "Refused", "detail": "the card\0 is " + "x" * 5000}
    outcome = await call(answers(422, json.dumps(body).encode(), Content_Type=PROBLEM))
    assert outcome.message.startswith("payment answered 422: the card")
    assert len(outcome.message) <= 500
    assert "\0" not in outcome.message
    orjson.dumps([outcome.message, outcome.record])


def date(ahead_seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_seconds), usegmt=True)


RETRY_AFTER = [
    ("120", 120),
    ("0", 0),
    (" 7 ", 7),
    ("99999999999999999999", 999999999),
    (100, 100),
    (-100, 0),
    ("-5", None),
    ("1.5", None),
    ("soon", None),
    ("", None),
    ("٣", None),
    ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
]


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER)
@pytest.mark.parametrize("status", [503, 429, 202, 422])
def test_retry_after_is_seconds_or_a_date(status: int, value: str | int, seconds: float | None) -> None:
    """A number stands for the date so many seconds ahead of the test."""
    headers = CIMultiDict({"retry-after": date(value) if isinstance(value, int) else value})
    outcome = judge("payment", status, headers, b"", ATTEMPT, 5)
    if seconds is None:
        assert outcome.retry_after_seconds is None
    else:
        assert outcome.retry_after_seconds == pytest.approx(seconds, abs=60)


async def test_an_accepted_call_says_where_to_look_and_when(call: Call, participant: Participant) -> None:
    outcome = await call(answers(202, Location="/jobs/1", Retry_After="3"))
    assert (outcome.kind, outcome.poll_url, outcome.retry_after_seconds) == (PENDING, f"{participant.url}/jobs/1", 3)
    assert (await call(answers(202))).poll_url is None


async def test_a_location_that_is_not_text_can_be_stored_all_the_same(call: Call) -> None:
    raw = b"HTTP/1.1 202 Accepted\r\nLocation: /jobs/\xff\xfe\r\nContent-Length: 0\r\n\r\n"
    outcome = await call(Behaviour(raw=raw, does=False))
    assert outcome.kind is PENDING
    orjson.dumps(outcome.poll_url)


# --- outputs ----------------------------------------------------------------------------------------------------

OUTPUTS = [
    # content type, body, output
    ("application/json", b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
    ("application/json; charset=utf-8", b"[]", []),
    ("application/vnd.shop+json", b'"x"', "x"),
    (None, b'{"a": 1}', {"a": 1}),
    ("application/json", b"", None),
    ("text/plain", b"", None),
    ("application/json", b" \r\n ", None),
    ("text/plain", b"reserved", "reserved"),
    ("text/plain", b'{"a": 1}', '{"a": 1}'),
    ("text/html", b"<p>\xc3\xa9</p>", "<p>é</p>"),
    ("application/json", b"{not json", "{not json"),
    ("application/json", b"NaN", "NaN"),
    ("application/json", b'"\\ud800"', '"\\ud800"'),
    ("application/octet-stream", b"\xff\x00", "\N{REPLACEMENT CHARACTER}\0"),
    ("application/json", b"[" * 2000 + b"]" * 2000, "[" * 2000 + "]" * 2000),
]


@pytest.mark.parametrize(("content_type", "body", "output"), OUTPUTS)
async def test_json_is_an_output_and_other_bodies_are_text(
    call: Call, content_type: str | None, body: bytes, output: object
) -> None:
    head = f"Content-Type: {content_type}\r\n".encode() if content_type else b""
    raw = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)
    outcome = await call(Behaviour(raw=raw))
    assert outcome.kind is SUCCEEDED
    assert orjson.loads(outcome.output) == output


async def test_the_limit_is_of_what_is_kept(call: Call) -> None:
    assert (await call(answers(200, b"1" * LIMIT, Content_Type="text/plain"))).kind is SUCCEEDED
    outcome = await call(answers(200, b"1" * (LIMIT + 1), Content_Type="text/plain"))
    assert (outcome.kind, outcome.status, outcome.may_run_seconds) == (UNKNOWN, 200, 0)
    # Only an output has to be kept: a status means the same however much is said with it.
    assert (await call(answers(422, b"1" * 10 * LIMIT))).kind is REFUSED
    assert (await call(answers(500, b"1" * 10 * LIMIT))).kind is UNKNOWN


async def test_a_small_answer_that_unpacks_to_more_than_the_limit_is_over_it(call: Call) -> None:
    packed = gzip.compress(b"0" * LIMIT * 1000)
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed)
    assert (await call(Behaviour(raw=raw))).kind is UNKNOWN


async def test_the_history_keeps_the_head_of_an_answer_that_was_no_success(call: Call) -> None:
    outcome = await call(answers(500, b"disk full\0" + b"x" * 5000))
    assert outcome.record["head"].startswith("disk full\N{REPLACEMENT CHARACTER}")
    assert len(outcome.record["head"]) <= 200
    assert "head" not in (await call(OK)).record


# --- no whole answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://nowhere.invalid", "http://127.0.0.1:{port}/x y"])
async def test_where_no_connection_could_be_made_nothing_was_sent(call: Call, url: str) -> None:
    outcome = await call(url=url.format(port=closed_port()), attempt=replace(ATTEMPT, timeout_seconds=2))
    assert (outcome.kind, outcome.may_run_seconds) == (NOT_SENT, 0)
    assert outcome.record["ms"] >= 0


async def test_where_tls_cannot_be_agreed_on_nothing_was_sent(call: Call, participant: Participant) -> None:
    outcome = await call(url=participant.url.replace("http:", "https:"))
    assert outcome.kind is NOT_SENT
    assert not participant.asked


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port to which connections are not refused and not made: its owner accepts none."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        while True:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            code = client.connect_ex(server.getsockname())
            assert code in {0, errno.EINPROGRESS}
            with contextlib.suppress(OSError):
                client.getpeername()  # it is connected: it waits to be accepted
                continue
            yield server.getsockname()[1]
            return


async def test_a_connection_that_does_not_come_about_in_time_was_not_used(call: Call) -> None:
    with full_backlog() as port:
        outcome = await call(url=f"http://127.0.0.1:{port}", attempt=replace(ATTEMPT, timeout_seconds=0.2))
    assert outcome.kind is NOT_SENT


async def test_what_is_not_sent_in_time_is_not_sent_at_all(call: Call) -> None:
    """Contract, section 5, rule 1: not later than half of the lease's grace after the claim."""
    began = time.monotonic()
    with full_backlog() as port:
        late = replace(ATTEMPT, timeout_seconds=60, send_before=began + 0.2)
        outcome = await call(url=f"http://127.0.0.1:{port}", attempt=late)
    assert outcome.kind is NOT_SENT
    assert time.monotonic() - began < 5


class SlowResolver(aiohttp.abc.AbstractResolver):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        await asyncio.sleep(self._seconds)
        found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        return [found]

    async def close(self) -> None:
        pass


async def test_a_connection_that_is_there_is_not_used_by_who_comes_too_late(
    call: Call, participant: Participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was in time when it began, and has been asleep since."""
    assert (await call()).kind is SUCCEEDED
    headers = HttpParticipant._headers

    def slowly(*arguments: Any) -> dict[str, str]:
        time.sleep(0.1)
        return headers(*arguments)

    monkeypatch.setattr(HttpParticipant, "_headers", slowly)
    assert (await call(attempt=replace(ATTEMPT, send_before=time.monotonic() + 0.05))).kind is NOT_SENT
    assert len(participant.asked) == 1
    monkeypatch.undo()
    assert (await call()).kind is SUCCEEDED
    assert len(call.session.connector._conns) == 1


async def test_the_timeout_counts_from_the_sending(call: Call, participant: Participant) -> None:
    """An action never takes effect later than its timeout after it was sent (rule 4), so so long it is waited for."""
    call.session.connector._resolver = SlowResolver(0.3)
    url = participant.url.replace("127.0.0.1", "participant.test")
    attempt = replace(ATTEMPT, timeout_seconds=0.5)
    assert (await call(Behaviour(wait_seconds=0.3), attempt, url=url)).kind is SUCCEEDED


HALF = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half": '


@pytest.mark.parametrize("raw", [b"", HALF, b"HTTP/1.1 200 OK\r\nTransfer-Enc"])
async def test_the_timeout_is_for_the_whole_answer(call: Call, raw: bytes) -> None:
    outcome = await call(Behaviour(raw=raw, then_hold=Hold()), replace(ATTEMPT, timeout_seconds=0.2))
    assert (outcome.kind, outcome.may_run_seconds) == (UNKNOWN, 0)
    assert "within 0.2 s" in outcome.message
    assert outcome.record["ms"] >= 190


@pytest.mark.parametrize(
    "behaviour",
    [
        CUT,
        DONE_BUT_CUT,
        Behaviour(raw=HALF),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
    ],
    ids=["before", "after it was done", "within the body", "within a chunk"],
)
async def test_a_cut_connection_ends_nothing(call: Call, behaviour: Behaviour) -> None:
    outcome = await call(behaviour)
    assert outcome.kind is UNKNOWN
    assert ATTEMPT.timeout_seconds - 2 < outcome.may_run_seconds <= ATTEMPT.timeout_seconds
    assert "broke" in outcome.message
    assert outcome.record["ms"] >= 0


@pytest.mark.parametrize(
    "behaviour",
    [
        MALFORMED,
        DONE_BUT_MALFORMED,
        Behaviour(raw=b"HTTP/1.1 abc OK\r\n\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
    ],
)
async def test_malformed_http_ends_nothing_either(call: Call, behaviour: Behaviour) -> None:
    outcome = await call(behaviour)
    assert outcome.kind is UNKNOWN
    assert ATTEMPT.timeout_seconds - 2 < outcome.may_run_seconds <= ATTEMPT.timeout_seconds


async def test_a_socket_that_times_out_by_itself_is_a_cut_and_not_our_timeout(
    call: Call, participant: Participant
) -> None:
    hold = participant.hold("charge")
    task = asyncio.create_task(call(attempt=replace(ATTEMPT, step="charge")))
    await hold.reached.wait()
    (pool,) = [p for p in call.session.connector._acquired if p is not None]
    pool.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    outcome = await task
    assert outcome.kind is UNKNOWN
    assert outcome.may_run_seconds > 0


# --- connections that are kept ----------------------------------------------------------------------------------


async def test_a_connection_is_used_again(call: Call, participant: Participant) -> None:
    for _ in range(3):
        assert (await call()).kind is SUCCEEDED
    assert len(call.session.connector._conns) == 1


async def test_a_server_that_closes_kept_connections_does_not_look_like_a_failure(call: Call) -> None:
    """It closes 20 ms after each answer, without having said so."""
    kinds, pool = [], call.session.connector._conns
    for _ in range(10):
        kinds.append((await call(Behaviour(hang_up_after=True))).kind)
        await until(lambda: not any(c.is_connected() for kept in pool.values() for c, _ in kept))
    assert kinds == [SUCCEEDED] * 10


# --- whatever it answers ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    status=st.integers(200, 999),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "Retry-After", "Location"]),
        st.sampled_from([PROBLEM, "application/json", "text/plain", "", ";"])
        | st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))
        | st.datetimes(timezones=st.just(UTC)).map(format_datetime),
    ),
    content=st.none() | st.binary() | st.sampled_from([b"{}", b'{"detail": 1, "retriable": 2}', b"[]", b"null"]),
    attempt=st.sampled_from([ATTEMPT, UNDOING, replace(ATTEMPT, after_unknown=True, statuses=STATUSES)]),
)
def test_whatever_is_answered_is_an_outcome_that_can_be_stored(
    status: int, headers: dict[str, str], content: bytes | None, attempt: Attempt
) -> None:
    outcome = judge("payment", status, CIMultiDict(headers), content, attempt, 5)
    orjson.dumps([outcome.message, outcome.poll_url, outcome.record, outcome.retry_after_seconds])
    orjson.loads(outcome.output)
    assert outcome.kind is not NOT_SENT
    assert (outcome.kind is SUCCEEDED) <= (content is not None)


def test_tls_is_verified(session: aiohttp.ClientSession) -> None:
    assert session.connector._ssl is True
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
