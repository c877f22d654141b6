"""Sagas as the world sees them: the JSON of the contract, section 3.

Payloads are spliced in as they are stored (`orjson.Fragment`), so nothing here looks into them, but where the
definition hides some of it (`redact`); what is made here is for `orjson.dumps` alone.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from app.instants import rfc3339
from app.redacting import masked
from app.saga import rules
from app.saga.definition import Definition
from app.saga.redaction import Paths
from app.saga.state import UNDER_WAY, Attention, Call, CallState, Error, Micros, State
from app.store.sagas import INPUT, Saga, output_of

ENDED: Final = frozenset(
    {CallState.SUCCEEDED, CallState.REFUSED, CallState.EXHAUSTED, CallState.SKIPPED, CallState.CANCELLED}
)
_NULL: Final = orjson.Fragment(b"null")


def _time(at: Micros | None) -> str | None:
    return None if at is None else rfc3339(at)


def saga_json(saga: Saga) -> bytes:
    return orjson.dumps(saga_view(saga))


def saga_view(saga: Saga, *, payloads: bool = True) -> dict[str, Any]:
    """`payloads`: with `input` and the steps' outputs."""
    definition, state = saga.definition, saga.state
    view: dict[str, Any] = {
        "id": saga.id,
        "saga": definition.name,
        "version": saga.version,
        "idempotency_key": saga.key,
        "state": state.state,
        "input": _payload(saga, INPUT, () if definition.redaction is None else definition.redaction.input),
        "labels": saga.labels,
        "current_step": _current_step(definition, state),
        "completed_steps": [definition.steps[position].name for position in state.completed],
        "steps": [_step(saga, position, payloads=payloads) for position in range(len(state.steps))],
        "error": None if state.error is None else error_view(state.error),
        "attention": None if state.attention is None else _attention(state.attention),
        "paused": rules.paused(definition, state),
        "restarted_from": saga.restarted_from,
        "created_at": rfc3339(state.created_at),
        "updated_at": rfc3339(state.updated_at),
        "deadline_at": rfc3339(state.deadline_at),
        "finished_at": _time(state.finished_at),
    }
    if not payloads:
        del view["input"]
    return view


def error_view(error: Error) -> dict[str, Any]:
    """`step` and `operation` are null where no step is to blame; `status` stands only where an answer had one."""
    view: dict[str, Any] = {
        "step": error.step,
        "operation": error.operation,
        "code": error.code,
        "message": error.message,
        "attempts": error.attempts or 0,
    }
    if error.status is not None:
        view["status"] = error.status
    return view


def event_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a line of history, with its instants written as such."""
    return {name: rfc3339(value) if _is_instant(name, value) else value for name, value in data.items()}


def _is_instant(name: str, value: Any) -> bool:
    return isinstance(value, int) and (name.endswith(("_at", "_until")) or name == "until")


def _payload(saga: Saga, name: str, hidden: Paths) -> orjson.Fragment:
    data = saga.payloads.get(name)
    return _NULL if data is None else orjson.Fragment(masked(data, hidden) if hidden else data)


def _attention(attention: Attention) -> dict[str, Any]:
    return {"since": rfc3339(attention.since), "reason": attention.reason, "steps": attention.steps}


def _step(saga: Saga, position: int, *, payloads: bool) -> dict[str, Any]:
    plan, record = saga.definition.steps[position], saga.state.steps[position]
    call, undo = record.action, record.compensation
    redaction = saga.definition.redaction
    view: dict[str, Any] = {
        "name": plan.name,
        "service": plan.service,
        "state": call.state,
        "attempts": call.attempts,
        "output": _payload(saga, output_of(plan.name), () if redaction is None else redaction.output(plan.name)),
        "error": None if call.error is None else error_view(call.error),
        "next_attempt_at": _next_attempt(call),
        "started_at": _time(call.started_at),
        "finished_at": _time(call.finished_at),
        "compensation": {
            "state": rules.compensation_state(saga.definition, saga.state, position),
            "attempts": undo.attempts,
            "error": None if undo.error is None else error_view(undo.error),
            "next_attempt_at": _next_attempt(undo),
        },
    }
    if not payloads:
        del view["output"]
    return view


def _next_attempt(call: Call) -> str | None:
    return _time(call.due_at) if call.state is CallState.RETRYING else None


def _current_step(definition: Definition, state: State) -> str | None:
    """The first step that has not ended: while going forward one that is to be done or holds, then one to be undone."""
    if state.at_rest:
        return None
    holding = rules.held(definition, state)
    for position, record in enumerate(state.steps):
        if record.action.state not in ENDED or position in holding:
            return definition.steps[position].name
    for position, record in enumerate(state.steps):
        if record.compensation.state in UNDER_WAY:
            return definition.steps[position].name
    return None
