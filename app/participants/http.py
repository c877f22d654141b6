"""Participants that speak HTTP.

`judge` is the table of section 4 of the contract. Only the status decides, never words in a body, but that a
problem+json body may say whether it is `retriable`. Redirects are not followed, and proxies from the environment
are not used: a call goes to the registered address or nowhere, and never to a forbidden one (`addresses`).

An attempt is sent by `Attempt.send_before` or not at all, however long its connection takes, and its timeout counts
from then: so it is over within its lease.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook
from yarl import URL

from app.observability import log
from app.participants import addresses
from app.participants.contract import HEAD_LENGTH, Attempt, not_sent, readable, too_late, unknown
from app.saga.messages import Outcome, OutcomeKind
from app.saga.service import Service
from app.saga.state import ACTION

KEEPALIVE_SECONDS: Final = 3
"""Shorter than what servers commonly allow, so that we do not send into a connection that is being closed."""

MAX_LOCATION: Final = 2000

RETRY: Final = frozenset({408, 425, 429})
PROXY: Final = frozenset({502, 504})
"""A proxy's word, not the participant's answer: the request may still run behind it."""


@dataclass(slots=True)
class _Sending:
    """Of one attempt: it has left the house as soon as there is a connection for it."""

    attempt: Attempt
    limit: asyncio.Timeout
    over_at: float | None = None
    """By the monotonic clock; None while nothing was sent."""

    def begin(self) -> None:
        now = time.monotonic()
        if now > self.attempt.send_before:
            raise _TooLate(f"a connection took {now - self.attempt.send_before:.1f} s longer than it may")
        self.over_at = now + self.attempt.timeout_seconds
        self.limit.reschedule(asyncio.get_running_loop().time() + self.attempt.timeout_seconds)

    @property
    def left_seconds(self) -> float:
        return 0 if self.over_at is None else self.over_at - time.monotonic()


class _TooLate(Exception):  # noqa: N818 - a condition
    pass


_sending: ContextVar[_Sending] = ContextVar("sending")


class _Connector(addresses.Connector):
    """Tells the attempt when it has a connection."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        try:
            _sending.get().begin()
        except _TooLate:
            connection.release()
            raise
        return connection


def open_session(
    resolver: AbstractResolver | None = None,
    *,
    connector: type[addresses.Connector] = _Connector,
    timeout_seconds: float | None = None,
) -> aiohttp.ClientSession:
    """One per process and event loop. Neither proxies nor .netrc of the environment: what is sent goes to its address
    or nowhere.

    `resolver`: another than the machine's own. `timeout_seconds`: of one call; None leaves it to whoever calls.
    """
    return aiohttp.ClientSession(
        connector=connector(resolver=resolver, limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        trust_env=False,
        headers={"User-Agent": "saga-orchestrator"},
    )


class HttpParticipant:
    def __init__(self, session: aiohttp.ClientSession, service: Service, max_output_bytes: int) -> None:
        self._session, self._service, self._max_output_bytes = session, service, max_output_bytes
        self._base = (service.url or "").rstrip("/")
        # Several secrets are for rotation: each signs, and the participant accepts any that it knows.
        self._signers = [Webhook(secret) for secret in service.secrets]

    async def __call__(self, attempt: Attempt) -> Outcome:
        started, content = time.monotonic(), None
        connect_seconds = min(attempt.timeout_seconds, attempt.send_before - started)
        if connect_seconds <= 0:
            return too_late()
        body = attempt.body()
        limit = asyncio.timeout(None)
        sending = _Sending(attempt, limit)
        _sending.set(sending)
        try:
            async with (
                limit,
                self._session.post(
                    f"{self._base}/{attempt.name}",
                    data=body,
                    headers=self._headers(attempt, body),
                    timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
                    allow_redirects=False,
                ) as response,
            ):
                content = await _read(response, self._max_output_bytes)
        except (aiohttp.ClientError, OSError, ValueError, _TooLate) as error:
            outcome = self._broken(error, sending)
        else:
            name, left = self._service.name, sending.left_seconds
            outcome = judge(name, response.status, response.headers, content, attempt, left)
            outcome = self._followed(outcome, str(response.url))
        return _recorded(outcome, started, content)

    async def poll(self, attempt: Attempt, url: str) -> Outcome | None:
        started, limit = time.monotonic(), asyncio.timeout(attempt.timeout_seconds)
        _sending.set(_Sending(attempt, limit))
        try:
            async with (
                limit,
                self._session.get(url, headers=self._headers(attempt, b""), allow_redirects=False) as response,
            ):
                content = await _read(response, self._max_output_bytes)
        except (aiohttp.ClientError, OSError, ValueError, _TooLate) as error:
            # The work goes on, whether or not it can be asked about; `callback_timeout` bounds it.
            # Without the address: it is the participant's, and names what it likes.
            name, kind = self._service.name, type(error).__name__
            log.info("%s cannot be asked about %s of saga %s: %s", name, attempt.step, attempt.saga_id, kind)
            return None
        if response.status in PROXY:
            return None
        outcome = judge(self._service.name, response.status, response.headers, content, attempt, 0)
        return _recorded(self._followed(outcome, url), started, content)

    def _followed(self, outcome: Outcome, asked: str) -> Outcome:
        """Polls go where calls go: a `Location` at another place than the service's own is not followed."""
        if outcome.poll_url is None:
            return outcome
        try:
            url = URL(asked).join(URL(outcome.poll_url))
            own = url.origin() == URL(self._base).origin() and url.user is None
        except ValueError:
            url, own = URL(), False
        ignored = {**outcome.record, "location_ignored": outcome.poll_url}
        return replace(outcome, poll_url=str(url)) if own else replace(outcome, poll_url=None, record=ignored)

    def _broken(self, error: Exception, sending: _Sending) -> Outcome:
        """No whole answer came."""
        name, left = self._service.name, sending.left_seconds
        if sending.over_at is None:
            return not_sent(f"no connection to {name} could be made: {unconnected(error)}")
        if sending.limit.expired():
            return unknown(f"{name} did not answer within {sending.attempt.timeout_seconds:g} s")
        if isinstance(error, aiohttp.ClientResponseError):
            text = f"{name} answered what is not HTTP: {error.message or _said(error)}"
            return unknown(text, may_run_seconds=left)
        return unknown(f"the connection to {name} broke before it had answered: {_said(error)}", may_run_seconds=left)

    def _headers(self, attempt: Attempt, body: bytes) -> dict[str, str]:
        headers = {
            **self._service.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": attempt.key,
            "Saga-Id": attempt.saga_id,
            "Saga-Step": attempt.step,
            "Saga-Operation": attempt.operation,
            "Saga-Attempt": str(attempt.number),
            "Saga-Deadline": attempt.deadline.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if attempt.callback_url is not None:
            headers["Saga-Callback-Url"] = attempt.callback_url
        if attempt.traceparent is not None:
            headers["traceparent"] = attempt.traceparent
        if self._signers:
            headers |= webhook_headers(f"{attempt.key}/{attempt.number}", body, self._signers)
        return headers


def webhook_headers(message_id: str, body: bytes, signers: Sequence[Webhook]) -> dict[str, str]:
    """Of a message as it is sent now (Standard Webhooks): the receiver holds the time against its own clock, and
    accepts any signature that it knows. Without signers it goes unsigned.
    """
    now = datetime.now(UTC)
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
    if signers:
        headers["webhook-signature"] = " ".join(signer.sign(message_id, now, body.decode()) for signer in signers)
    return headers


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body; None where it is longer than the limit."""
    content = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > limit:
            response.close()
            return None
    return bytes(content)


def unconnected(error: Exception) -> str:
    if (refused := addresses.refusal(error)) is not None:
        return refused
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host!r} is not known"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno is not None:
        return f"{error.host}:{error.port}: {os.strerror(error.os_error.errno)}"
    return _said(error)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _recorded(outcome: Outcome, started: float, content: bytes | None) -> Outcome:
    record: dict[str, Any] = {**outcome.record, "ms": round((time.monotonic() - started) * 1000, 1)}
    if outcome.kind is not OutcomeKind.SUCCEEDED and content:
        record["head"] = readable(content[: HEAD_LENGTH * 4].decode("utf-8", "replace"), HEAD_LENGTH)
        return replace(outcome, record=record, answer=content)
    return replace(outcome, record=record)


def judge(
    service: str,
    status: int,
    headers: Mapping[str, str],
    content: bytes | None,
    attempt: Attempt,
    left_seconds: float,
) -> Outcome:
    """What a whole answer means. `content` is None where it was longer than the limit."""
    meaning = _override(status, attempt) or _meaning(status, attempt)
    said = _problem(headers, content)
    text = f"{service} answered {status}"
    if detail := said.get("detail") or said.get("title"):
        text += f": {detail}"
    retriable = said.get("retriable")
    retriable = retriable if isinstance(retriable, bool) else None
    more: dict[str, Any] = {"status": status, "retry_after_seconds": _retry_after(headers)}

    if meaning == "success":
        if content is None:
            return unknown(f"{text} with more than is kept of an output", **more)
        return Outcome(OutcomeKind.SUCCEEDED, text, status, _output(headers, content))
    if meaning == "pending":
        return Outcome(OutcomeKind.PENDING, text, poll_url=_location(headers), **more)
    if meaning == "refused":
        return Outcome(OutcomeKind.REFUSED, readable(text), retriable=bool(retriable), **more)
    if meaning == "refused, again":
        return Outcome(OutcomeKind.REFUSED, readable(text), retriable=True, **more)
    whole = status not in PROXY
    # A word on repetition is the participant's own only in an answer of its own.
    again = retriable if status >= 500 and whole else None
    return unknown(text, may_run_seconds=0 if whole else left_seconds, retriable=again, **more)


def _override(status: int, attempt: Attempt) -> str | None:
    if attempt.operation != ACTION:
        return None
    if status in attempt.statuses.success:
        return "success"
    if status in attempt.statuses.refused:
        return "refused"
    if status in attempt.statuses.retry:
        # A 4xx says that it did not happen, also where it is asked again; of anything else we do not know.
        certain = 400 <= status < 500 and status not in RETRY and not (status == 409 and attempt.after_unknown)
        return "refused, again" if certain else "unknown"
    return None


def _meaning(status: int, attempt: Attempt) -> str:
    if status == 202:
        return "pending"
    if 200 <= status < 300:
        return "success"
    if status == 410 and attempt.operation != ACTION:
        return "success"  # nothing to undo
    if status == 409 and attempt.after_unknown:
        return "unknown"
    if 400 <= status < 500 and status not in RETRY:
        return "refused"
    return "unknown"


def _is_json(headers: Mapping[str, str]) -> bool:
    kind = headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _problem(headers: Mapping[str, str], content: bytes | None) -> Mapping[str, Any]:
    if not headers.get("Content-Type", "").lower().startswith("application/problem+json"):
        return {}
    try:
        problem = orjson.loads(content or b"")
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _output(headers: Mapping[str, str], content: bytes) -> bytes:
    if not content.strip():
        return b"null"
    if _is_json(headers):
        try:
            orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
        else:
            return content
    return orjson.dumps(content.decode("utf-8", "replace"))


def _location(headers: Mapping[str, str]) -> str | None:
    location = headers.get("Location")
    return None if location is None else readable(location, MAX_LOCATION)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; RFC 9110 section 10.2.3 allows a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max((moment - datetime.now(moment.tzinfo or UTC)).total_seconds(), 0) if moment.tzinfo else None
