"""A saga's history as a person reads it: one line for each attempt, at the time at which it began.

Pure: `draw` takes the API's JSON and gives lines of text. It tells what it does not know as it is named, so that a
newer server's events are shown by an older command.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from app.cli.output import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    TONES,
    YELLOW,
    clean,
    clock,
    duration,
    moment,
    tinted,
    wrapped,
)

Json: TypeAlias = Mapping[str, Any]

AT_REST: Final = frozenset({"COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"})
UNDER_WAY: Final = frozenset({"SCHEDULED", "RUNNING", "WAITING", "RETRYING"})

OFFSET: Final = 9
WIDEST_NAME: Final = 30
ALIKE_SHOWN: Final = 3
"""Of a long run of attempts that failed alike, so many are shown at its beginning and at its end."""


@dataclass
class _Row:
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


def draw(saga: Json, events: Sequence[Json], now: datetime, *, width: int = 80, options: str = "") -> list[str]:
    """The saga with its timeline; `options` belong to every command that is suggested."""
    lines = [*head(saga, now), ""]
    if events:
        lines += [*_rows(saga, events, now, width), ""]
    # Only a saga that follows events was created by one.
    choreographed = bool(events) and "event" in (events[0].get("data") or {})
    advice = _advice(next_commands(saga, choreographed=choreographed), width, options)
    for block in (_now(saga, now, width), _sentences(saga, width), advice):
        if block:
            lines += [*block, ""]
    return lines[:-1]


def head(saga: Json, now: datetime) -> list[str]:
    created, ended = moment(saga.get("created_at")), moment(saga.get("finished_at"))
    state = str(saga["state"])
    lines = [f"{tinted(clean(saga['saga']), BOLD)}  {tinted(state, TONES.get(state))}{_how_long(saga, now)}"]
    facts = [("id", saga["id"]), ("key", saga.get("idempotency_key")), ("version", saga.get("version"))]
    facts.append(("labels", ", ".join(f"{key}={value}" for key, value in (saga.get("labels") or {}).items())))
    facts.append(("again of", saga.get("restarted_from")))
    if created is not None:
        facts.append(("created", clock(created, fine=True)))
    if (deadline := moment(saga.get("deadline_at"))) and ended is None and state in {"CREATED", "EXECUTING"}:
        facts.append(("deadline", f"{clock(deadline)}, {_until(deadline, now)}"))
    return lines + [f"  {name:9} {clean(value)}" for name, value in facts if value not in (None, "")]


def _how_long(saga: Json, now: datetime) -> str:
    created, finished = moment(saga.get("created_at")), moment(saga.get("finished_at"))
    words = ", paused" if saga.get("paused") else ""
    if created is None:
        return words
    if finished is not None:
        return f" after {_between(created, finished)}{words}"
    return f"{words}, since {_between(created, now)}" if saga["state"] not in AT_REST else words


def _between(begin: datetime, end: datetime) -> str:
    return duration((end - begin).total_seconds())


def _until(at: datetime, now: datetime) -> str:
    return f"in {_between(now, at)}" if at > now else f"{_between(at, now)} ago"


# --- the timeline -----------------------------------------------------------------------------------------------


def _rows(saga: Json, events: Sequence[Json], now: datetime, width: int) -> Iterator[str]:
    standing = str((saga.get("attention") or {}).get("reason"))
    rows = _shortened(_Teller(events, now if saga["state"] not in AT_REST else None, standing).rows)
    begin = moment(events[0]["at"]) or now
    column = min(max((len(row.who) for row in rows), default=0), WIDEST_NAME)
    margin = OFFSET + 2
    for row in rows:
        offset = "" if row.text == _LEFT_OUT else _offset(row.at - begin)
        lead = f"{offset:>{OFFSET}}  "
        if not row.who:
            lines = wrapped(clean(row.told), first=lead, rest=" " * (margin + 2), width=width)
        elif len(row.who) > column:
            yield f"{lead}{clean(row.who)}"
            indent = " " * (margin + 4)
            lines = wrapped(clean(row.told), first=indent, rest=indent, width=width)
        else:
            lead += f"{clean(row.who):{column}}  "
            lines = wrapped(clean(row.told), first=lead, rest=" " * (margin + column + 2), width=width)
        yield from (tinted(line, row.tone) for line in lines)


def _offset(since: timedelta) -> str:
    seconds = since.total_seconds()
    return f"{seconds:.2f} s" if -100 < seconds < 100 else duration(seconds)


_LEFT_OUT: Final = "..."


def _shortened(rows: list[_Row]) -> list[_Row]:
    """A step that is repeated without limit fills no screens."""
    runs: list[list[_Row]] = []
    for row in rows:
        if row.failed and runs and runs[-1][-1].failed and runs[-1][-1].who == row.who:
            runs[-1].append(row)
        else:
            runs.append([row])
    shown: list[_Row] = []
    for run in runs:
        if len(run) <= 2 * ALIKE_SHOWN + 1:
            shown += run
            continue
        middle = run[ALIKE_SHOWN:-ALIKE_SHOWN]
        left_out = _Row(middle[0].at, run[0].who, _LEFT_OUT, DIM, so_far=f"{len(middle)} more attempts that failed ")
        shown += [*run[:ALIKE_SHOWN], left_out, *run[-ALIKE_SHOWN:]]
    return shown


class _Teller:
    """Makes rows of events."""

    def __init__(self, events: Sequence[Json], now: datetime | None, standing: str) -> None:
        """`now` is None at rest; `standing` is the reason of the attention that is told below."""
        self.rows: list[_Row] = []
        self._standing = standing
        self._created = moment(events[0]["at"]) or datetime.now(UTC)
        self._at = self._created
        self._open: dict[tuple[Any, ...], _Row] = {}
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
                row.text = f"so far {_between(row.at, now)}"
            else:
                row.text = f"under way for {_between(row.at, now)}"
            row.tone = CYAN

    def _tell(self, event: Json, data: Json) -> None:
        error = data.get("error") or {}
        match event["type"]:
            case "SagaCreated" | "AttentionRaised" | "CompensationBegan" as kind:
                self._tell_turn(kind, data, error)
            case "SagaStarted":
                if self._at - self._created >= timedelta(seconds=0.1):
                    self._add("", f"begins, after it has waited for {_between(self._created, self._at)}")
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
                self._add("", _message(error) or "cancelled", YELLOW)
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

    def _add(self, who: str, text: str, tone: str | None = None, *, event: Json | None = None) -> _Row:
        row = _Row(self._at, who, text, tone, "" if event is None else self._number(event))
        self.rows.append(row)
        return row

    def _number(self, event: Json) -> str:
        several = self._attempts[_call(event)] > 1 and event.get("attempt")
        return f"attempt {event['attempt']} " if several else ""

    def _close(self, event: Json, how: str, tone: str, error: Json | None = None, then: str = "") -> _Row:
        row = self._open.pop(_attempt(event), None)
        if row is None:
            row = self._add(_who(event), "", event=event)
            # The answer came after its attempt was given up; where there was none, a service has done it by itself.
            how = "done after all" if how == "done" and event.get("attempt") else how
        else:
            # What the worker has measured is the participant's own time; the history has ours as well.
            measured = None if row.so_far else (event.get("data") or {}).get("ms")
            took = duration(measured / 1000) if isinstance(measured, int | float) else _between(row.at, self._at)
            how += f" {'in' if how == 'done' and not row.so_far else 'after'} {took}"
        row.text = _said(how, error or {}) + then
        row.tone = tone
        return row

    def _failed(self, event: Json, data: Json, error: Json, how: str) -> None:
        then = ""
        if quiet := _time(data.get("quiet_until")):
            then += f"; it may still take effect for {_between(self._at, quiet)}"
        if retry_at := _time(data.get("retry_at")):
            then += f"; again in {_between(self._at, retry_at)}"
        message, before = _message(error), self._failures.get(_call(event))
        known = {"message": "as before"} if message and message == before else error
        self._close(event, how, YELLOW, known, then).failed = True
        self._failures[_call(event)] = message

    def _waiting(self, event: Json, data: Json) -> None:
        row = self._open.get(_attempt(event))
        if row is None:
            row = self._open[_attempt(event)] = self._add(_who(event), "", event=event)
        until = _time(data.get("until"))
        how = "is polled" if data.get("poll") else "waits for its callback"
        limit = f" (at most {_between(self._at, until)})" if until else ""
        row.so_far = f"accepted in {_between(row.at, self._at)}, {how}{limit}, "

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
    return f"{how}: {_message(error)}" if _message(error) else how


def _message(error: Json) -> str:
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


# --- what is under way, what is wrong, what may be done ---------------------------------------------------------


def _now(saga: Json, now: datetime, width: int) -> list[str]:
    if saga["state"] in AT_REST:
        return []
    lines: list[str] = []
    to_come: list[str] = []
    for step in saga.get("steps") or ():
        for who, call in ((step["name"], step), (f"undo {step['name']}", step.get("compensation") or {})):
            if call.get("state") in UNDER_WAY:
                text = clean(f"{who}: {_doing(call, now)}")
                lines += wrapped(text, first="  ", rest="    ", width=width)
        if step.get("state") == "PENDING":
            to_come.append(str(step["name"]))
    if to_come:
        text = f"{'held back' if saga.get('paused') else 'to come'}: {', '.join(to_come)}"
        lines += wrapped(clean(text), first="  ", rest="    ", width=width)
    return ["Now", *lines] if lines else []


def _doing(call: Json, now: datetime) -> str:
    following = int(call.get("attempts") or 0) + 1
    at = moment(call.get("next_attempt_at"))
    match call["state"]:
        case "SCHEDULED":
            return f"SCHEDULED, attempt {following} waits for a worker"
        case "RUNNING":
            return f"RUNNING, attempt {following - 1}"
        case "WAITING":
            return "WAITING for the answer that it has promised"
    due = f" at {clock(at)}, {_until(at, now)}" if at and at > now else " as soon as a worker takes it"
    last = f" (last: {_message(call['error'])})" if call.get("error") else ""
    return f"RETRYING, attempt {following}{due}{last}"


def _sentences(saga: Json, width: int) -> list[str]:
    lines: list[str] = []
    if error := saga.get("error"):
        of = " ".join(str(error[name]) for name in ("operation", "step") if error.get(name)).replace(" ", " of ")
        code = f"{error.get('code')}{f' in the {of}' if of else ''}: "
        text = f"Error: {'' if _message(error).startswith(str(error.get('code'))) else code}{_message(error)}"
        lines += [tinted(line, RED) for line in wrapped(clean(text), first="", rest="  ", width=width)]
    if attention := saga.get("attention"):
        since = moment(attention.get("since"))
        text = f"Attention{f' since {clock(since)}' if since else ''}: {attention.get('reason')}"
        lines += [tinted(line, YELLOW) for line in wrapped(clean(text), first="", rest="  ", width=width)]
    return lines


def _advice(commands: Sequence[tuple[str, str]], width: int, options: str) -> list[str]:
    lines = []
    for command, words in commands:
        lines += [f"  {words}:", *_shell(f"saga {command}{options}", width)]
    return ["What may be done", *lines] if lines else []


def _shell(command: str, width: int) -> Iterator[str]:
    """A command to be copied: what does not fit goes on below, as a shell reads it."""
    line = "   "
    for number, part in enumerate(command.replace(" --", "\0--").split("\0")):
        if number and len(line) + len(part) + 3 > width:
            yield f"{line} \\"
            line = "       "
        line += f" {part}"
    yield line


def next_commands(saga: Json, *, choreographed: bool = False) -> list[tuple[str, str]]:
    """(command without `saga`, what it does) of what the saga's state suggests. The server has the last word."""
    named, state, steps = saga["id"], saga["state"], saga.get("steps") or ()
    undoing = [step.get("compensation") or {} for step in steps]
    why = "--reason WHY"
    if state == "COMPENSATION_FAILED":
        failed = [s["name"] for s, undo in zip(steps, undoing, strict=True) if undo.get("state") == "FAILED"]
        one = failed[0] if len(failed) == 1 else "STEP"
        return [
            (f"retry {named} {why}", "the failed compensations again"),
            (f"resolve {named} --step {one} {why}", "it was settled by hand"),
            (f"abandon {named} {why}", "leave it as it is, for good"),
        ]
    if state in {"FAILED", "ABANDONED"}:
        return [] if choreographed else [(f"restart {named} {why}", "run it again as a new saga")]
    if state == "COMPENSATING":
        found = []
        if any(undo.get("state") in {"RETRYING", "FAILED"} for undo in undoing):
            found.append((f"retry {named} {why}", "the compensation again, now"))
        return [*found, *([(f"resume {named} {why}", "go on")] if saga.get("paused") else [])]
    if state == "COMPLETED":
        return []
    holding = [step["name"] for step in steps if step.get("state") in {"EXHAUSTED", "REFUSED"}]
    stuck = holding or [step["name"] for step in steps if step.get("state") == "RETRYING"]
    found = []
    if saga.get("paused") and not holding:
        found.append((f"resume {named} {why}", "go on"))
    if stuck:
        one = stuck[0] if len(stuck) == 1 else "STEP"
        found.append((f"retry {named} {why}", "try again now, with all its attempts"))
        found.append((f"skip {named} --step {one} {why}", "go on without the step"))
    return [*found, (f"cancel {named}", "stop, and undo what was done")]
