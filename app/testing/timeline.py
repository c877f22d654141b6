"""A run as a person reads it: a line for each attempt when it ended, and for each turn of the saga."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from app.saga.definition import Definition
from app.saga.history import evolve, initial
from app.saga.messages import Record, RecordType
from app.saga.state import COMPENSATION, SECOND, CallState, Micros, Operation, State

ALIKE_SHOWN: Final = 3
"""Of a long row of attempts that failed alike, so many are shown at its beginning and at its end."""

_ENDS: Final = {
    RecordType.STEP_SUCCEEDED,
    RecordType.STEP_REFUSED,
    RecordType.STEP_ATTEMPT_FAILED,
    RecordType.STEP_ATTEMPT_LOST,
    RecordType.STEP_WAITING,
    RecordType.COMPENSATION_SUCCEEDED,
    RecordType.COMPENSATION_ATTEMPT_FAILED,
    RecordType.COMPENSATION_FAILED,
}
_SILENT: Final = {
    RecordType.SAGA_CREATED,
    RecordType.SAGA_STARTED,
    RecordType.STEP_SCHEDULED,
    RecordType.STEP_STARTED,
    RecordType.COMPENSATION_SCHEDULED,
    RecordType.COMPENSATION_STARTED,
}
_SAGA: Final = {
    RecordType.SAGA_TIMED_OUT: "out of time",
    RecordType.SAGA_CANCELLED: "cancelled",
    RecordType.COMPENSATION_BEGAN: "turns: what was done is undone",
    RecordType.SAGA_COMPLETED: "comes to rest",
    RecordType.SAGA_FAILED: "comes to rest, undone",
    RecordType.SAGA_COMPENSATION_FAILED: "comes to rest, not undone",
    RecordType.SAGA_PAUSED: "paused",
    RecordType.SAGA_RESUMED: "resumed",
    RecordType.SAGA_EXTENDED: "has more time",
    RecordType.SAGA_ABANDONED: "abandoned, nothing is undone",
}


class _Line(NamedTuple):
    at: Micros
    who: str
    attempt: str
    state: str
    text: str
    fails: bool = False


def draw(
    definition: Definition,
    state: State,
    history: Sequence[Record],
    answers: Mapping[tuple[int, Operation, int], str],
    conflicts: Sequence[Any],
    seconds: float,
) -> str:
    """`state`: what the history has led to. `answers`: what was said to each attempt. `conflicts`: acts that were
    refused. `seconds`: the run's time now.
    """
    begin = history[0].at
    lines = _shortened(list(_lines(definition, history, answers)))
    lines += [
        _Line(begin + round(each.at_seconds * SECOND), "saga", "", "", f"{each.act}: 409 {each.code}")
        for each in conflicts
    ]
    lines.sort(key=lambda line: line.at)
    lines += _under_way(definition, state, begin + round(seconds * SECOND))
    widths = [max(map(len, column)) for column in zip(*((x.who, x.attempt, x.state) for x in lines), strict=True)]
    drawn = [
        f"{(line.at - begin) / SECOND:10.2f} s  {line.who:{widths[0]}}  {line.attempt:{widths[1]}}"
        f"  {line.state:{widths[2]}}  {line.text}".rstrip()
        for line in lines
    ]
    return "\n".join([f"{definition.name}: {state.state} after {seconds:.2f} s", *drawn])


def _replayed(definition: Definition, history: Sequence[Record]) -> Iterator[tuple[Record, State]]:
    state = initial(definition, history[0])
    yield history[0], state
    for record in history[1:]:
        state = evolve(definition, state, record)
        yield record, state


def _lines(
    definition: Definition, history: Sequence[Record], answers: Mapping[tuple[int, Operation, int], str]
) -> Iterator[_Line]:
    for record, state in _replayed(definition, history):
        if record.type in _SILENT:
            continue
        if record.step is None or record.operation is None:
            yield _Line(record.at, "saga", "", str(state.state), _said_of_saga(record))
            continue
        who = _who(definition, record.step, record.operation)
        call = str(state.call(record.step, record.operation).state)
        if record.attempt is None or record.type not in _ENDS:
            yield _Line(record.at, who, "", call, _said_of_call(record))
            continue
        error = record.data.get("error") or {}
        text = error.get("message") or answers.get((record.step, record.operation, record.attempt), "")
        if record.type is RecordType.STEP_WAITING:
            text = f"accepted, waits for its callback up to {(record.data['until'] - record.at) / SECOND:g} s"
        if record.type is RecordType.STEP_ATTEMPT_LOST:
            text = f"LOST: {text}"
        if (quiet := record.data.get("quiet_until")) is not None:
            text += f"; it may still take effect for {(quiet - record.at) / SECOND:.2f} s"
        fails = (retry_at := record.data.get("retry_at")) is not None
        if retry_at is not None:
            text += f"; again in {(retry_at - record.at) / SECOND:.2f} s"
        yield _Line(record.at, who, f"attempt {record.attempt}", call, text, fails)


def _said_of_saga(record: Record) -> str:
    data = record.data
    if record.type is RecordType.ATTENTION_RAISED:
        return f"ATTENTION: {data['reason']}"
    if record.type is RecordType.OPERATOR_ACTED:
        return f"an operator's {data['action']}"
    text = _SAGA.get(record.type, str(record.type))
    error = data.get("error") or {}
    if record.type is RecordType.COMPENSATION_BEGAN:
        blamed = f" of {error['step']}" if error.get("step") else ""
        return f"{text} ({error.get('code')}{blamed})"
    return f"{text}: {error['message']}" if error.get("message") else text


def _said_of_call(record: Record) -> str:
    error = record.data.get("error") or {}
    match record.type:
        case RecordType.STEP_SKIPPED:
            return "its condition is not met" if record.data.get("because") == "when" else "by an operator"
        case RecordType.COMPENSATION_RESOLVED:
            return "settled by hand"
        case RecordType.OPERATOR_ACTED:
            return f"an operator's {record.data['action']}"
        case RecordType.STEP_EXHAUSTED | RecordType.COMPENSATION_FAILED if error.get("code") == "exhausted":
            return "given up"
    return str(error.get("message") or record.type)


def _who(definition: Definition, step: int, operation: Operation) -> str:
    name = definition.steps[step].name
    return f"{name}/compensation" if operation == COMPENSATION else name


def _shortened(lines: list[_Line]) -> list[_Line]:
    """A step that is repeated without limit fills no screens."""
    shown: list[_Line] = []
    row: list[_Line] = []
    for line in [*lines, None]:
        if line is not None and line.fails and (not row or row[0].who == line.who):
            row.append(line)
            continue
        if len(row) > 2 * ALIKE_SHOWN + 1:
            first, last = row[:ALIKE_SHOWN], row[-ALIKE_SHOWN:]
            left_out = _Line(first[-1].at, row[0].who, "...", "", f"{len(row) - 2 * ALIKE_SHOWN} more that failed")
            row = [*first, left_out, *last]
        shown += row
        row = []
        if line is not None:
            (row if line.fails else shown).append(line)
    return shown


def _under_way(definition: Definition, state: State, now: Micros) -> Iterator[_Line]:
    under_way = {
        CallState.SCHEDULED: "is sent next",
        CallState.RUNNING: "has not ended",
        CallState.WAITING: "waits for its callback",
        CallState.RETRYING: "waits to be repeated",
    }
    for step, operation, call in state.calls():
        if call.state in under_way:
            attempt = f"attempt {call.attempts}" if call.attempts else ""
            yield _Line(now, _who(definition, step, operation), attempt, str(call.state), under_way[call.state])
