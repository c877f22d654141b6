"""A saga's history in words: one line for each attempt, at the time at which it began.

Pure: it reads the API's JSON. It tells what it does not know as it is named, so that a newer server's events are told
by older words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from app.instants import clock, duration, moment

Json: TypeAlias = Mapping[str, Any]

RED, GREEN, YELLOW, CYAN, DIM = "red", "green", "yellow", "cyan", "dim"
"""Tones of a line. Colour goes with a word that says the same."""
ALIKE_SHOWN: Final = 3
"""Of a long run of attempts that failed alike, so many are shown at its beginning and at its end."""


@dataclass
class Row:
    at: datetime
    who: str
    """The step, or `undo` and the step; empty for the saga itself."""
    text: str
    tone: str | None = None
    attempt: str = ""
    """`attempt 2 `, where there are several."""
    so_far: str = ""
    """What an attempt has told before it ended."""
    failed: bool = False
    resent: int = 0

    @property
    def told(self) -> str:
        return f"{self.attempt}{self.so_far}{self.text}"


def tell(events: Sequence[Json], now: datetime | None, standing: str = "") -> list[Row]:
    """`now` is None at rest; `standing` is the reason of the attention that is told elsewhere."""
    return _shortened(_Teller(events, now, standing).rows)


def between(begin: datetime, end: datetime) -> str:
    return duration((end - begin).total_seconds())


LEFT_OUT: Final = "..."


def _shortened(rows: list[Row]) -> list[Row]:
    """A step that is repeated without limit fills no screens."""
    runs: list[list[Row]] = []
    for row in rows:
        if row.failed and runs and runs[-1][-1].failed and runs[-1][-1].who == row.who:
            runs[-1].append(row)
        else:
            runs.append([row])
    shown: list[Row] = []
    for run in runs:
        if len(run) <= 2 * ALIKE_SHOWN + 1:
            shown += run
            continue
        middle = run[ALIKE_SHOWN:-ALIKE_SHOWN]
        left_out = Row(middle[0].at, run[0].who, LEFT_OUT, DIM, so_far=f"{len(middle)} more attempts that failed ")
        shown += [*run[:ALIKE_SHOWN], left_out, *run[-ALIKE_SHOWN:]]
    return shown


class _Teller:
    """Makes rows of events."""

    def __init__(self, events: Sequence[Json], now: datetime | None, standing: str) -> None:
        """`now` is None at rest; `standing` is the reason of the attention that is told below."""
        self.rows: list[Row] = []
        self._standing = standing
        self._created = moment(events[0]["at"]) or datetime.now(UTC)
        self._at = self._created
        self._open: dict[tuple[Any, ...], Row] = {}
        self._failures: dict[tuple[Any, ...], str] = {}
        self._attempts = Counter({_call(event): int(event.get("attempt") or 0) for event in events})
        for event in events:
            self._attempts[_call(event)] = max(self._attempts[_call(event)], int(event.get("attempt") or 0))
        for event in events:
            self._at = moment(event.get("at")) or self._at
            self._tell(event, event.get("data") or {})
        for row in self._open.values():
            if now is None:
                row.text = "was under way when the saga came to rest"
            elif row.so_far:
                row.text = f"so far {between(row.at, now)}"
            else:
                row.text = f"under way for {between(row.at, now)}"
            row.tone = CYAN

    def _tell(self, event: Json, data: Json) -> None:
        error = data.get("error") or {}
        match event["type"]:
            case "SagaCreated" | "AttentionRaised" | "CompensationBegan" as kind:
                self._tell_turn(kind, data, error)
            case "SagaStarted":
                if self._at - self._created >= timedelta(seconds=0.1):
                    self._add("", f"begins, after it has waited for {between(self._created, self._at)}")
            case "StepScheduled" | "CompensationScheduled":
                self._scheduled(event, data)
            case "StepStarted" | "CompensationStarted":
                self._open[_attempt(event)] = self._add(_who(event), "", event=event)
            case "StepSucceeded" | "CompensationSucceeded":
                self._close(event, "done", GREEN)
            case "StepRefused":
                self._close(event, "REFUSED", RED, error)
            case "StepAttemptFailed" | "CompensationAttemptFailed":
                self._failed(event, data, error, _OUTCOMES.get(str(data.get("outcome")), "failed"))
            case "StepAttemptLost":
                self._failed(event, data, error, "LOST, outcome unknown,")
            case "StepWaiting":
                self._waiting(event, data)
            case "StepExhausted":
                self._add(_who(event), f"GIVEN UP{_after_attempts(error)}", RED)
            case "CompensationFailed":
                if _attempt(event) in self._open:
                    self._close(event, "FAILED", RED, error)
                else:
                    self._add(_who(event), _said(f"FAILED{_after_attempts(error)}", error), RED)
            case "CompensationResolved":
                self._add(_who(event), "settled by hand", GREEN)
            case "StepSkipped":
                because = {"when": ": its condition is not met", "operator": " by an operator"}
                self._add(_who(event), f"skipped{because.get(str(data.get('because')), '')}", DIM)
            case kind:
                self._tell_saga(str(kind), event, data, error)

    def _tell_turn(self, kind: str, data: Json, error: Json) -> None:
        if kind == "SagaCreated":
            if start_at := _time(data.get("start_at")):
                self._add("", f"is to begin at {clock(start_at)}")
        elif kind == "AttentionRaised":
            reason = data.get("reason") or data.get("code")
            self._add("", f"ATTENTION: {'see below' if reason == self._standing else reason}", YELLOW)
        else:
            why = {"refused": "a refusal", "exhausted": "attempts used up", "cancelled": "a cancel"}
            code = str(error.get("code", ""))
            because = why.get(code, code.replace("-", " "))
            step = f" of {error['step']}" if error.get("step") else ""
            because = f" ({because}{step})" if because else ""
            self._add("", f"TURNS{because}: what was done is undone", YELLOW)

    def _tell_saga(self, kind: str, event: Json, data: Json, error: Json) -> None:
        by = f" by {data['actor']}" if data.get("actor") else ""
        reason = f": {data['reason']}" if data.get("reason") else ""
        match kind:
            case "SagaTimedOut":
                self._add("", _said("OUT OF TIME", error), YELLOW)
            case "SagaCancelled":
                self._add("", message_of(error) or "cancelled", YELLOW)
            case "SagaPaused":
                self._add("", f"paused{by}{reason}", YELLOW)
            case "SagaResumed":
                self._add("", f"resumed{by}{reason}")
            case "SagaExtended":
                later = _time(data.get("deadline_at"))
                self._add("", f"has until {clock(later)}{by}{reason}" if later else f"has more time{by}{reason}")
            case "OperatorActed":
                step = data.get("step") or event.get("step")
                names = [step] if step else data.get("compensations") or []
                of = f" of {', '.join(map(str, names))}" if names else ""
                self._add("", f"{data.get('action') or 'action'}{of}{by}{reason}", CYAN)
            case "SagaCompleted":
                self._add("", "COMPLETED", GREEN)
            case "SagaFailed":
                self._add("", "FAILED, and undone", RED)
            case "SagaCompensationFailed":
                steps = ", ".join(map(str, data.get("steps") or ()))
                left = f": the effect of {steps} may still stand" if steps else ""
                self._add("", f"COMPENSATION_FAILED{left}", RED)
            case "SagaAbandoned":
                self._add("", f"ABANDONED{by}, with nothing undone{reason}", RED)
            case _:
                self._add(_who(event), _said(kind, error))

    def _add(self, who: str, text: str, tone: str | None = None, *, event: Json | None = None) -> Row:
        row = Row(self._at, who, text, tone, "" if event is None else self._number(event))
        self.rows.append(row)
        return row

    def _number(self, event: Json) -> str:
        several = self._attempts[_call(event)] > 1 and event.get("attempt")
        return f"attempt {event['attempt']} " if several else ""

    def _close(self, event: Json, how: str, tone: str, error: Json | None = None, then: str = "") -> Row:
        row = self._open.pop(_attempt(event), None)
        if row is None:
            row = self._add(_who(event), "", event=event)
            # The answer came after its attempt was given up; where there was none, a service has done it by itself.
            how = "done after all" if how == "done" and event.get("attempt") else how
        else:
            # What the worker has measured is the participant's own time; the history has ours as well.
            measured = None if row.so_far else (event.get("data") or {}).get("ms")
            took = duration(measured / 1000) if isinstance(measured, int | float) else between(row.at, self._at)
            how += f" {'in' if how == 'done' and not row.so_far else 'after'} {took}"
        row.text = _said(how, error or {}) + then
        row.tone = tone
        return row

    def _failed(self, event: Json, data: Json, error: Json, how: str) -> None:
        then = ""
        if quiet := _time(data.get("quiet_until")):
            then += f"; it may still take effect for {between(self._at, quiet)}"
        if retry_at := _time(data.get("retry_at")):
            then += f"; again in {between(self._at, retry_at)}"
        message, before = message_of(error), self._failures.get(_call(event))
        known = {"message": "as before"} if message and message == before else error
        self._close(event, how, YELLOW, known, then).failed = True
        self._failures[_call(event)] = message

    def _waiting(self, event: Json, data: Json) -> None:
        row = self._open.get(_attempt(event))
        if row is None:
            row = self._open[_attempt(event)] = self._add(_who(event), "", event=event)
        until = _time(data.get("until"))
        how = "is polled" if data.get("poll") else "waits for its callback"
        limit = f" (at most {between(self._at, until)})" if until else ""
        row.so_far = f"accepted in {between(row.at, self._at)}, {how}{limit}, "

    def _scheduled(self, event: Json, data: Json) -> None:
        sends = int(data.get("sends") or 1)
        if sends < 2:
            return
        who, last = _who(event), self.rows[-1] if self.rows else None
        if last is None or not last.resent or last.who != who:
            last = self._add(who, "", YELLOW)
        last.resent += 1
        times = "" if last.resent == 1 else f" ({last.resent} times)"
        last.text = f"no worker has taken it: sent again{times}"


_OUTCOMES: Final = {
    "unknown": "failed, outcome unknown,",
    "not-sent": "not sent",
    "refused": "refused for now",
}


def _call(event: Json) -> tuple[Any, Any]:
    return event.get("step"), event.get("operation")


def _attempt(event: Json) -> tuple[Any, ...]:
    return (*_call(event), event.get("attempt"))


def _who(event: Json) -> str:
    step = str(event.get("step") or "")
    return f"undo {step}" if step and event.get("operation") == "compensation" else step


def _said(how: str, error: Json) -> str:
    return f"{how}: {message_of(error)}" if message_of(error) else how


def message_of(error: Json) -> str:
    message = str(error.get("message") or "").strip().rstrip(".")
    status = error.get("status")
    return f"{message} ({status})" if status and str(status) not in message else message


def _after_attempts(error: Json) -> str:
    attempts = error.get("attempts")
    return f" after {attempts} attempt{'' if attempts == 1 else 's'}" if attempts else ""


def _time(value: Any) -> datetime | None:
    """RFC 3339, or microseconds since the epoch."""
    if isinstance(value, int) and not isinstance(value, bool):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
    return moment(value) if isinstance(value, str) else None
