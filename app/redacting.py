"""What a definition hides, applied to a saga: to its payloads where people are shown them, and to what others wrote of
it before that is kept.

Payloads are stored as they are, since participants need them. Texts (messages, heads of answers, reasons) are kept only
as people may see them. A definition that hides nothing costs the look at `definition.redaction`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from app.errors import Problem
from app.saga.definition import Definition
from app.saga.expressions import ExpressionFailed, evaluate_mapping
from app.saga.messages import Outcome, OutcomeKind
from app.saga.preparing import known_to
from app.saga.redaction import (
    REDACTED,
    NothingKept,
    Path,
    Paths,
    Redaction,
    mask,
    places_in_step_input,
    restore,
    scrub,
    texts_at,
)
from app.store.sagas import INPUT, Saga, input_of, output_of

HIDDEN: Final = json.dumps(REDACTED).encode()


def masked(data: bytes, paths: Paths) -> bytes:
    """JSON as it is shown. What cannot be looked into is hidden as a whole."""
    if not paths:
        return data
    try:
        value = json.loads(data)
        shown = mask(value, paths)
        return data if shown is value else _dumps(shown)
    except (ValueError, RecursionError):
        return HIDDEN


def _dumps(value: Any) -> bytes:
    # Not orjson, which rounds integers of more than 64 bits.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _loads(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None


# --- texts ------------------------------------------------------------------------------------------------------


def discreet(saga: Saga, text: str) -> str:
    """The text without what the saga's definition hides."""
    return scrub(text, _secrets(saga, saga.definition.redaction)) if saga.definition.redaction else text


def discreet_outcome(saga: Saga, step: int, outcome: Outcome) -> Outcome:
    """The outcome as it may be written down: participants repeat what they were sent, and tell what they know."""
    redaction = saga.definition.redaction
    if redaction is None or outcome.kind is OutcomeKind.SUCCEEDED:  # of a success nothing but the output is kept
        return outcome
    plan = saga.definition.steps[step]
    secrets = _secrets(saga, redaction)
    if plan.input is not None:
        secrets |= texts_at(_mapped_input(saga, step), _places_in_input(saga, redaction, step))
    paths = redaction.output(plan.name)
    whole: Path = ()
    # A refusal is no output: where all of that is hidden, what went wrong is still told, by its message alone.
    secrets |= texts_at(_loads(outcome.answer), tuple(path for path in paths if path))
    record = {name: scrub(said, secrets) if isinstance(said, str) else said for name, said in outcome.record.items()}
    if whole in paths and "head" in record:
        record["head"] = REDACTED
    return replace(outcome, message=scrub(outcome.message, secrets), record=record)


def discreet_reason(definition: Definition, saga: Saga | None, event_type: str, data: Any, reason: str) -> str:
    """What an event says of its cause, without what it or its saga hides."""
    redaction = definition.redaction
    if redaction is None:
        return reason
    secrets = texts_at(data, tuple(path for path in places_in_event(definition, event_type) if path))
    return scrub(reason, secrets | (_secrets(saga, redaction) if saga is not None else set()))


def _secrets(saga: Saga, redaction: Redaction) -> set[str]:
    """Every value that is hidden in the saga's payloads."""
    found = texts_at(_loads(saga.payloads.get(INPUT)), redaction.input)
    for name, paths in redaction.outputs.items():
        found |= texts_at(_loads(saga.payloads.get(output_of(name))), paths)
    for step, plan in enumerate(saga.definition.steps):
        if (renewed := saga.payloads.get(input_of(plan.name))) is not None:
            found |= texts_at(_loads(renewed), _places_in_input(saga, redaction, step))
    return found


def discreet_history(saga: Saga, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of its history. An address to be polled is of the participant's making, and is kept as it is."""
    return [
        {**row, "data": {**data, "poll": discreet(saga, data["poll"])}} if "poll" in (data := row["data"]) else {**row}
        for row in rows
    ]


# --- inputs of steps --------------------------------------------------------------------------------------------


def _places_in_input(saga: Saga, redaction: Redaction, step: int) -> Paths:
    """What is hidden of the input that the step is given."""
    mapping = saga.definition.steps[step].input
    return redaction.input if mapping is None else places_in_step_input(mapping, redaction, _document(saga, step))


def _document(saga: Saga, step: int) -> dict[str, Any]:
    return known_to(
        saga.definition,
        saga.state,
        step,
        saga_id=saga.id,
        key=saga.key,
        saga_input=lambda: _loads(saga.payloads.get(INPUT)),
        output=lambda name: _loads(saga.payloads.get(output_of(name))),
    )


def _mapped_input(saga: Saga, step: int) -> Any:
    mapping = saga.definition.steps[step].input
    if mapping is None:
        return _loads(saga.payloads.get(INPUT))
    try:
        return evaluate_mapping(mapping, _document(saga, step))
    except ExpressionFailed:
        return None


# --- what people send back --------------------------------------------------------------------------------------


def restored_input(saga: Saga, given: Any) -> Any:
    """An input in place of the saga's. Problem 422 where it says `[redacted]` and nothing is kept there."""
    redaction = saga.definition.redaction
    return given if redaction is None else _restored(given, _loads(saga.payloads.get(INPUT)), redaction.input)


def shown_step_input(saga: Saga, step: int) -> Any:
    """The input that an operator gave to the step, as it is shown. LookupError where none was given."""
    data = saga.payloads[input_of(saga.definition.steps[step].name)]
    redaction = saga.definition.redaction
    return json.loads(data if redaction is None else masked(data, _places_in_input(saga, redaction, step)))


def restored_step_input(saga: Saga, step: int, given: Any) -> Any:
    """An input in place of what the step was given."""
    redaction = saga.definition.redaction
    if redaction is None:
        return given
    renewed = saga.payloads.get(input_of(saga.definition.steps[step].name))
    kept = _mapped_input(saga, step) if renewed is None else _loads(renewed)
    return _restored(given, kept, _places_in_input(saga, redaction, step))


def _restored(given: Any, kept: Any, paths: Paths) -> Any:
    try:
        return restore(given, kept, paths)
    except NothingKept as error:
        detail = (
            f"`{REDACTED}` stands for the value that is kept; there is none at {error.path}, or the list around it has"
            " another length. Write the value itself."
        )
        faults = [(error.path, f"says {REDACTED}, and nothing is kept there")]
        raise Problem(422, "nothing-redacted-here", detail, errors=faults) from None


# --- events -----------------------------------------------------------------------------------------------------


def places_in_event(definition: Definition, event_type: str) -> Paths:
    """What a choreography hides of an event's data: as the input or output that it becomes. An event that becomes none
    may repeat both.
    """
    redaction = definition.redaction
    if redaction is None:
        return ()
    found: list[Path] = list(redaction.input) if event_type == definition.started_by else []
    for plan in definition.steps:
        if plan.events is None:
            continue
        if event_type == plan.events.succeeded:
            found += redaction.output(plan.name)
        elif event_type in {plan.events.failed, plan.events.compensated}:
            found += (*redaction.output(plan.name), *redaction.input)
    return tuple(found)


def masked_event(event: Any, definitions: Iterable[Definition]) -> Any:
    """A CloudEvent as it is shown, of all the choreographies that name it."""
    if not isinstance(event, Mapping) or "data" not in event:
        return event
    paths = tuple(path for each in definitions for path in places_in_event(each, str(event.get("type"))))
    return {**event, "data": mask(event["data"], paths)} if paths else event
