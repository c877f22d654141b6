"""What a saga is: its steps, what undoes them, in which order they run, and how patiently each is tried.

Of a choreographed saga the steps name events instead of calls. Which step depends on which follows from them, so
whoever asks for steps, order or compensations need not ask for the type; what is done about them differs
(`machine`, `choreography`).

A `Definition` is made by `parse_definition`, which refuses a wrong document as a whole and tells every fault
with its place. `to_document` writes it down again with all defaults filled in; two definitions that mean the
same have the same document and therefore the same `digest`, which is what versions are told apart by.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, Literal, get_args

from app.saga import expressions
from app.saga.durations import parse_duration
from app.saga.fields import Fault, Faults, Fields, number, of_type, one_of, or_nothing, shown, whole_number
from app.saga.graph import circles, downstream_of, upstream_of
from app.saga.jsonable import json_fault, text_fault
from app.saga.redaction import MAX_EXPRESSIONS, Redaction, fault_of, read_redaction

COMPENSATION_REQUESTED = "CompensationRequested"
"""The one event that the orchestrator itself publishes."""
MAX_STEPS = 1000
MAX_COUNT = 1_000_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9._/:~-]{0,199}")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_SAY_COMPENSATION = "name the call that undoes the step, or write `none` where there is nothing to undo"
_SAY_COMPENSATED = "name the event that says the step is undone, or write `none` where there is nothing to undo"

OnExhausted = Literal["compensate", "pause"]
OnCompensationFailure = Literal["continue", "halt"]
DefinitionType = Literal["orchestration", "choreography"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an operation is tried, and how long it rests in between (see `backoff`)."""

    max_attempts: int = 4
    initial_delay_seconds: float = 1.0
    multiplier: float = 2.0
    max_delay_seconds: float = 60.0
    jitter: float = 0.2


# An action that goes on failing turns the saga; a compensation that does leaves work for a person.
_COMPENSATION_RETRY = RetryPolicy(max_attempts=10, max_delay_seconds=300.0)


@dataclass(frozen=True, slots=True)
class Statuses:
    """HTTP statuses that mean something else for this action than the contract's table says."""

    refused: frozenset[int] = frozenset()
    retry: frozenset[int] = frozenset()
    success: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class StepEvents:
    """The types of the events that a choreographed step listens to and publishes."""

    trigger: str
    succeeded: str
    failed: str
    compensated: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `depends_on` is resolved: in a chain it names the step before, in a choreography the one whose success
    triggers it. `action` and `compensation` of a choreographed step are its trigger and its `compensated` event.
    """

    name: str
    service: str
    action: str
    compensation: str | None
    timeout_seconds: float
    retry: RetryPolicy
    compensation_timeout_seconds: float
    compensation_retry: RetryPolicy
    depends_on: tuple[str, ...]
    when: str | None
    input: Mapping[str, Any] | None
    on_exhausted: OnExhausted
    pivot: bool
    statuses: Statuses
    callback_timeout_seconds: float
    events: StepEvents | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """A sound definition. What stands below `steps` follows from them and speaks of them by position."""

    name: str
    type: DefinitionType
    timeout_seconds: float
    max_concurrent: int | None
    input_schema: Mapping[str, Any] | None
    on_compensation_failure: OnCompensationFailure
    steps: tuple[Step, ...]
    started_by: str | None = None
    """Of a choreography: the event that begins it."""
    correlation: str | None = None
    """Of a choreography: JMESPath over an event, which says what saga it belongs to."""
    redact: tuple[str, ...] = ()
    """Places in the input and in outputs that people are not shown."""

    redaction: Redaction | None = field(init=False, repr=False, compare=False)
    """What `redact` means; None where nothing is hidden."""
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)
    dependencies: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    upstream: tuple[frozenset[int], ...] = field(init=False, repr=False, compare=False)
    downstream: tuple[frozenset[int], ...] = field(init=False, repr=False, compare=False)
    pivots: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {step.name: position for position, step in enumerate(self.steps)}
        dependencies = tuple(tuple(index[name] for name in step.depends_on) for step in self.steps)
        upstream = upstream_of(dependencies)
        derived = {
            "redaction": read_redaction(self.redact, list(index)) if self.redact else None,
            "index": index,
            "dependencies": dependencies,
            "upstream": upstream,
            "downstream": downstream_of(upstream),
            "pivots": tuple(position for position, step in enumerate(self.steps) if step.pivot),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def to_document(definition: Definition) -> dict[str, Any]:
    """The definition as JSON, with every default written out: `parse_definition` makes an equal one of it."""
    document: dict[str, Any] = {
        "name": definition.name,
        "type": definition.type,
        "timeout": definition.timeout_seconds,
        "on_compensation_failure": definition.on_compensation_failure,
        "steps": [_step_document(step) for step in definition.steps],
    }
    if definition.redact:
        document["redact"] = list(definition.redact)
    if definition.type == "choreography":
        return {**document, "started_by": definition.started_by, "correlation": definition.correlation}
    if definition.max_concurrent is not None:
        document["max_concurrent"] = definition.max_concurrent
    if definition.input_schema is not None:
        document["input_schema"] = definition.input_schema
    return document


def _step_document(step: Step) -> dict[str, Any]:
    if step.events is not None:
        return {
            "name": step.name,
            "service": step.service,
            "trigger": step.events.trigger,
            "succeeded": step.events.succeeded,
            "failed": step.events.failed,
            "compensated": step.events.compensated or "none",
            "timeout": step.timeout_seconds,
            "compensation_timeout": step.compensation_timeout_seconds,
            "compensation_retry": _retry_document(step.compensation_retry),
        }
    document: dict[str, Any] = {
        "name": step.name,
        "service": step.service,
        "action": step.action,
        "compensation": step.compensation or "none",
        "timeout": step.timeout_seconds,
        "retry": _retry_document(step.retry),
        "compensation_timeout": step.compensation_timeout_seconds,
        "compensation_retry": _retry_document(step.compensation_retry),
        "depends_on": list(step.depends_on),
        "on_exhausted": step.on_exhausted,
        "pivot": step.pivot,
        "statuses": {
            "refused": sorted(step.statuses.refused),
            "retry": sorted(step.statuses.retry),
            "success": sorted(step.statuses.success),
        },
        "callback_timeout": step.callback_timeout_seconds,
    }
    if step.when is not None:
        document["when"] = step.when
    if step.input is not None:
        document["input"] = dict(step.input)
    return document


def _retry_document(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "max_attempts": policy.max_attempts,
        "initial_delay": policy.initial_delay_seconds,
        "multiplier": policy.multiplier,
        "max_delay": policy.max_delay_seconds,
        "jitter": policy.jitter,
    }


def digest(definition: Definition) -> str:
    """SHA-256 of the canonical document."""
    canonical = json.dumps(to_document(definition), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


class DefinitionInvalid(ValueError):  # noqa: N818 - the name of the answer: definition-invalid
    """A definition that is refused as a whole, with every fault that was found."""

    def __init__(self, errors: list[Fault]) -> None:
        super().__init__("; ".join(f"{path}: {message}" if path else message for path, message in errors))
        self.errors = errors


def parse_definition(document: object, services: Collection[str] | None, *, max_steps: int = MAX_STEPS) -> Definition:
    """The definition that a document describes; raises DefinitionInvalid with all that is wrong with it.

    `services` are the names that steps may use; None leaves them unchecked.
    """
    faults = Faults()
    fields = Fields(document, "", faults)
    definition_type: DefinitionType = fields.optional("type", one_of(get_args(DefinitionType)), "orchestration")
    on_compensation_failure: OnCompensationFailure = fields.optional(
        "on_compensation_failure", one_of(get_args(OnCompensationFailure)), "continue"
    )
    name = fields.required("name", _name, "")
    timeout_seconds = fields.optional("timeout", parse_duration, 3600.0)
    max_concurrent = input_schema = started_by = correlation = None
    if definition_type == "choreography":
        started_by = fields.required("started_by", _event, "")
        correlation = fields.required("correlation", _correlation, "")
    else:
        max_concurrent = fields.optional("max_concurrent", or_nothing(whole_number(1, MAX_COUNT)), None)
        input_schema = fields.optional("input_schema", or_nothing(_schema), None)
    redact = fields.optional("redact", or_nothing(_list_of_places), None) or []
    documents: list[Any] = fields.required("steps", partial(_list_of_steps, max_steps), [])
    fields.refuse_others()
    written = [Fields(step, f"steps[{position}]", faults) for position, step in enumerate(documents)]
    if started_by is None:
        steps = _join(written, [_step(step, services) for step in written], faults)
    else:
        steps = _join_events(written, [_listener(step, services) for step in written], started_by, faults)
    _check_places(fields, redact, [step.name for step in steps])
    if faults.found:
        raise DefinitionInvalid(faults.found)
    return Definition(
        name=name,
        type=definition_type,
        timeout_seconds=timeout_seconds,
        max_concurrent=max_concurrent,
        input_schema=input_schema,
        on_compensation_failure=on_compensation_failure,
        steps=steps,
        started_by=started_by,
        correlation=correlation,
        redact=tuple(redact),
    )


def _step(fields: Fields, services: Collection[str] | None) -> Step:
    """One step by itself, with `depends_on` as it was written."""
    name = fields.raw("name")
    retry_fields = fields.object("retry")
    retry = _retry(retry_fields, RetryPolicy())
    if "retries" in fields and "max_attempts" in retry_fields:
        fields.fault("retries", "says the same as retry.max_attempts: leave one of them out")
    retries = fields.optional("retries", whole_number(0, MAX_COUNT - 1), retry.max_attempts - 1)
    step = Step(
        # A wrong name is a name still: what depends on it is not a second fault.
        name=fields.required("name", _name, name if isinstance(name, str) else ""),
        service=fields.required("service", partial(_service, services), ""),
        action=fields.required("action", _call, ""),
        compensation=fields.required("compensation", _compensation, None, f"is missing: {_SAY_COMPENSATION}"),
        timeout_seconds=fields.optional("timeout", parse_duration, 10.0),
        retry=replace(retry, max_attempts=retries + 1),
        compensation_timeout_seconds=fields.optional("compensation_timeout", parse_duration, 10.0),
        compensation_retry=_retry(fields.object("compensation_retry"), _COMPENSATION_RETRY),
        depends_on=tuple(fields.optional("depends_on", of_type(list, "a list of steps, [] for none"), [])),
        when=fields.optional("when", or_nothing(of_type(str, "an expression such as input.express")), None),
        input=fields.optional("input", or_nothing(_input), None),
        on_exhausted=fields.optional("on_exhausted", one_of(get_args(OnExhausted)), "compensate"),
        pivot=fields.optional("pivot", of_type(bool, "true or false"), False),
        statuses=_statuses(fields.object("statuses")),
        callback_timeout_seconds=fields.optional("callback_timeout", parse_duration, 3600.0),
    )
    fields.refuse_others()
    return step


def _listener(fields: Fields, services: Collection[str] | None) -> Step:
    """One step of a choreography by itself, with nothing that it depends on."""
    name = fields.raw("name")
    say_nothing = f"is missing: {_SAY_COMPENSATED}"
    events = StepEvents(
        trigger=fields.required("trigger", _event, ""),
        succeeded=fields.required("succeeded", _event, ""),
        failed=fields.required("failed", _event, "", "is missing: name the event that says the step was not done"),
        compensated=fields.required("compensated", _compensated, None, say_nothing),
    )
    step = Step(
        name=fields.required("name", _name, name if isinstance(name, str) else ""),
        service=fields.required("service", partial(_service, services), ""),
        action=events.trigger,
        compensation=events.compensated,
        timeout_seconds=fields.optional("timeout", parse_duration, 10.0),
        retry=RetryPolicy(max_attempts=1),
        compensation_timeout_seconds=fields.optional("compensation_timeout", parse_duration, 10.0),
        compensation_retry=_retry(fields.object("compensation_retry"), _COMPENSATION_RETRY),
        depends_on=(),
        when=None,
        input=None,
        on_exhausted="compensate",
        pivot=False,
        statuses=Statuses(),
        callback_timeout_seconds=3600.0,
        events=events,
    )
    fields.refuse_others()
    return step


def _retry(fields: Fields, default: RetryPolicy) -> RetryPolicy:
    first_delay = partial(parse_duration, allow_zero=True)
    policy = RetryPolicy(
        max_attempts=fields.optional("max_attempts", whole_number(1, MAX_COUNT), default.max_attempts),
        initial_delay_seconds=fields.optional("initial_delay", first_delay, default.initial_delay_seconds),
        multiplier=fields.optional("multiplier", number(1, 1000), default.multiplier),
        max_delay_seconds=fields.optional("max_delay", parse_duration, default.max_delay_seconds),
        jitter=fields.optional("jitter", number(0, 1), default.jitter),
    )
    fields.refuse_others()
    return policy


def _statuses(fields: Fields) -> Statuses:
    lists: dict[str, list[int]] = {
        name: fields.optional(name, _list_of_statuses, []) for name in ("refused", "retry", "success")
    }
    fields.refuse_others()
    seen: set[int] = set()
    for name, statuses in lists.items():
        for status in statuses:
            if status in seen:
                fields.fault(name, f"{status} is named twice: a status means one thing")
            seen.add(status)
    return Statuses(**{name: frozenset(statuses) for name, statuses in lists.items()})


def _join(written: list[Fields], steps: list[Step], faults: Faults) -> tuple[Step, ...]:
    """The steps with their dependencies resolved; notes what is wrong between them."""
    place = {step.name: position for position, step in enumerate(steps)}
    faults_before = faults.count
    _check_names(written, steps)
    if any("depends_on" in fields for fields in written):
        _check_dependencies(written, steps, place)
    else:
        chain = [(), *((step.name,) for step in steps)]
        steps = [replace(step, depends_on=before) for step, before in zip(steps, chain, strict=False)]
    upstream = None
    if faults.count == faults_before and all(place):
        # In the order of the steps: the order in which dependencies are written says nothing.
        ordered = [sorted(step.depends_on, key=place.__getitem__) for step in steps]
        steps = [replace(step, depends_on=tuple(names)) for step, names in zip(steps, ordered, strict=True)]
        upstream = upstream_of([[place[name] for name in names] for names in ordered])
        _check_pivots(written, steps, upstream)
    for position, (fields, step) in enumerate(zip(written, steps, strict=True)):
        # While the order is unknown a step may see any other: a fault that may be none is no help.
        visible = place if upstream is None else {steps[other].name for other in upstream[position]}
        _check_values(fields, step, visible, place)
    return tuple(steps)


def _join_events(written: list[Fields], steps: list[Step], started_by: str, faults: Faults) -> tuple[Step, ...]:
    """The steps of a choreography with what they depend on; notes what is wrong between them."""
    faults_before = faults.count
    _check_names(written, steps)
    emitter: dict[str, str] = {started_by: "begins the saga"}
    succeeds: dict[str, int] = {}
    for position, (fields, step) in enumerate(zip(written, steps, strict=True)):
        for key in ("succeeded", "failed", "compensated"):
            event = getattr(step.events, key)
            if not event:
                continue
            if event in emitter:
                fields.fault(key, f"{event!r} {emitter[event]} already: each result has an event of its own")
            emitter.setdefault(event, f"is `{key}` of {step.name!r}")
        if step.events is not None:
            succeeds.setdefault(step.events.succeeded, position)
    dependencies: list[list[int]] = []
    for fields, step in zip(written, steps, strict=True):
        trigger = step.action
        dependencies.append([succeeds[trigger]] if trigger in succeeds and trigger != started_by else [])
        fault = None
        if trigger in emitter and trigger != started_by and trigger not in succeeds:
            fault = f"{trigger!r} {emitter[trigger]}, after which nothing goes on"
        elif trigger and started_by and trigger not in emitter:
            fault = f"nobody emits {trigger!r}"
        if fault:
            fields.fault("trigger", f"{fault}: a step is triggered by `started_by` or by `succeeded` of another step")
    for circle in circles(dependencies):
        names = " -> ".join(steps[position].name for position in circle[:10])
        written[circle[0]].fault("trigger", f"the steps wait for each other: {names}")
    if faults.count > faults_before:
        return tuple(steps)
    return tuple(
        replace(step, depends_on=tuple(steps[other].name for other in needed))
        for step, needed in zip(steps, dependencies, strict=True)
    )


def _check_names(written: list[Fields], steps: list[Step]) -> None:
    first: dict[str, Step] = {}
    for fields, step in zip(written, steps, strict=True):
        other = first.setdefault(step.name.replace("-", "_"), step)
        if step.name and other is not step:
            fields.fault(
                "name",
                f"{shown(step.name)} is the name of an earlier step"
                if step.name == other.name
                else f"differs from {shown(other.name)} in - and _ only: expressions take them for the same",
            )


def _check_dependencies(written: list[Fields], steps: list[Step], place: Mapping[str, int]) -> None:
    known: list[list[int]] = []
    for fields, step in zip(written, steps, strict=True):
        known.append([])
        if fields.is_object and "depends_on" not in fields:
            fields.fault(
                "depends_on",
                "is missing: where one step has it the order of writing counts for none; "
                "a step that starts at once says depends_on: []",
            )
        for position, name in enumerate(step.depends_on):
            fault = None
            if not isinstance(name, str):
                fault = f"must be the name of a step, not {shown(name)}"
            elif name not in place:
                fault = f"there is no step {shown(name)}"
            elif name == step.name:
                fault = "a step cannot depend on itself"
            elif place[name] in known[-1]:
                fault = f"{name!r} is named twice"
            else:
                known[-1].append(place[name])
            if fault:
                fields.fault(f"depends_on[{position}]", fault)
    for circle in circles(known):
        names = " -> ".join(steps[position].name for position in circle[:10])
        waiting, awaited = steps[circle[0]], steps[circle[1]]
        written[circle[0]].fault(
            f"depends_on[{waiting.depends_on.index(awaited.name)}]", f"the steps wait for each other: {names}"
        )


def _check_pivots(written: list[Fields], steps: list[Step], upstream: tuple[frozenset[int], ...]) -> None:
    pivots = [position for position, step in enumerate(steps) if step.pivot]
    for other in pivots[1:]:
        written[other].fault("pivot", f"{steps[pivots[0]].name!r} is the point of no return; a saga has one")
    if len(pivots) != 1:
        return
    (pivot,) = pivots
    for position, (fields, step) in enumerate(zip(written, steps, strict=True)):
        if step.compensation and position != pivot and position not in upstream[pivot]:
            fields.fault(
                "compensation",
                f"would never be used: once {steps[pivot].name!r}, the point of no return, has succeeded nothing is "
                f"undone. Let {steps[pivot].name!r} depend on this step, or write compensation: none",
            )


def _check_values(fields: Fields, step: Step, visible: Collection[str], all_steps: Collection[str]) -> None:
    values = {f"input.{key}": value for key, value in (step.input or {}).items()}
    for key, value in {"when": step.when, **values}.items():
        is_expression = isinstance(value, str)
        fault = expressions.check(value, visible, all_steps) if is_expression else json_fault(value)
        if fault:
            fields.fault(key, fault)


def _check_places(fields: Fields, redact: list[Any], steps: Collection[str]) -> None:
    for position, expression in enumerate(redact):
        is_expression = isinstance(expression, str)
        fault = fault_of(expression, steps) if is_expression else f"must be an expression, not {shown(expression)}"
        if fault:
            fields.fault(f"redact[{position}]", fault)


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"must be a letter and up to 63 letters, digits, - or _, not {shown(value)}")
    return value


def _service(services: Collection[str] | None, value: object) -> str:
    if not isinstance(value, str) or not _SEGMENT.fullmatch(value):
        raise ValueError(f"must be the name of a service, not {shown(value)}")
    if services is not None and value not in services:
        raise ValueError(f"there is no service {value!r}: add it to services.yaml or PUT /services/{value}")
    return value


def _call(value: object) -> str:
    """An action or a compensation: what follows the service's address."""
    if not isinstance(value, str) or not all(_SEGMENT.fullmatch(segment) for segment in value.split("/")):
        raise ValueError(
            "must be the path of a call, such as reserve or stock/reserve, whose parts begin with a letter or "
            f"digit and hold letters, digits, . _ ~ and -, not {shown(value)}"
        )
    return value


def _compensation(value: object) -> str | None:
    if value is None:
        raise ValueError(f"says nothing: {_SAY_COMPENSATION}")
    return None if value == "none" else _call(value)


def _event(value: object) -> str:
    if not isinstance(value, str) or not _EVENT.fullmatch(value) or value == "none":
        raise ValueError(
            "must be the type of an event, such as OrderPlaced or com.example.order.placed: a letter and up to 199 "
            f"letters, digits and . _ / : ~ -, not {shown(value)}"
        )
    if value == COMPENSATION_REQUESTED:
        raise ValueError(f"{value} is what the orchestrator itself publishes")
    return value


def _compensated(value: object) -> str | None:
    if value is None:
        raise ValueError(f"says nothing: {_SAY_COMPENSATED}")
    return None if value == "none" else _event(value)


def _correlation(value: object) -> str:
    expression = of_type(str, "an expression over an event such as data.order_id")(value)
    if fault := expressions.check_correlation(expression):
        raise ValueError(fault)
    return expression


def _input(value: object) -> dict[str, Any]:
    values = of_type(dict, "an object whose values are expressions")(value)
    if not all(isinstance(key, str) and not text_fault(key) for key in values):
        raise ValueError("must have text as keys")
    return values


def _schema(value: object) -> dict[str, Any]:
    schema = of_type(dict, "a JSON Schema that is an object")(value)
    if fault := json_fault(schema):
        raise ValueError(fault)
    return schema


def _list_of_steps(most: int, value: object) -> list[Any]:
    steps = of_type(list, "a list of steps")(value)
    if not 1 <= len(steps) <= most:
        raise ValueError(f"must be a list of 1 to {most:,} steps, not of {len(steps):,}")
    return steps


def _list_of_places(value: object) -> list[Any]:
    places = of_type(list, "a list of expressions such as input.card.number")(value)
    if len(places) > MAX_EXPRESSIONS:
        raise ValueError(f"must be a list of at most {MAX_EXPRESSIONS} expressions, not of {len(places):,}")
    return places


def _list_of_statuses(value: object) -> list[int]:
    statuses = of_type(list, "a list of HTTP statuses")(value)
    return [whole_number(200, 599)(status) for status in statuses]
