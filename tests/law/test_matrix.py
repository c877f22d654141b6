"""The law in full: every state that a step can be in, and every message: what follows, or that nothing does.

The states are not made up: `every_cell` drives the machine with all messages until no new state comes. They are
told apart by *words* (`words`), and TABLE says for each message, by those words, what becomes of them. The first row
that fits counts; a message without a fitting row is ignored and changes nothing. No time passes here: what is to
become due is dated back.

Words of a row. Saga: its state; `paused` by an operator; `kept` is a turn that waits for the pivot; `overdue` is a
deadline that has fired. Action: its state; `unknown`; `open` where an attempt that was cut may still run; `last`
where the budget is spent; `tried` where a success of the latest attempt, `twice` where one of the attempt before
it, could end the repetition. Compensation: the same with `-` in front, and `undoable` where there is one. Step:
`holds` is on_exhausted: pause; `pivot`; `past` is after one. `!` is not, `|` is or.

Results. Names are what the words become; `?` and `!` behind one: the outcome is unknown from now on, or settled.
`undo` stands for what follows when there is nothing more to do forward: nothing to undo: FAILED; in a pause or an
open window: COMPENSATING, and wait; else: COMPENSATING, and the compensation is SCHEDULED. `found`: the
attention for a missing participant is gone (another has taken its place, or the step begins afresh).
"""

from collections import deque
from dataclasses import dataclass, replace
from functools import cache

import pytest

from app.saga import history, machine
from app.saga.definition import Definition
from app.saga.messages import (
    Abandon,
    Admitted,
    Answered,
    Cancel,
    Claim,
    ConditionFalse,
    Extend,
    Inexpressible,
    Message,
    Outcome,
    OutcomeKind,
    ParticipantMissing,
    Pause,
    RecordType,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Operation, SagaState, State

from .build import ID, OPERATOR, T0, TIMING, a_pivot, a_step, chain, check, policy

Row = tuple[str, str]

REST = ("COMPLETED|FAILED|ABANDONED|COMPENSATION_FAILED", "409 saga-at-rest")
FINAL = ("COMPLETED|FAILED|ABANDONED", "409 saga-at-rest")

# What an attempt leaves behind that brought neither a success nor a refusal that counts.
UNKNOWN: list[Row] = [
    ("COMPENSATING RUNNING", "CANCELLED? undo"),
    ("EXECUTING RUNNING|WAITING !last", "RETRYING?"),
    ("EXECUTING RUNNING|WAITING past !holds", "RETRYING?"),
    ("EXECUTING RUNNING|WAITING holds !kept", "EXHAUSTED?"),
    ("EXECUTING RUNNING|WAITING pivot", "RETRYING? kept"),
    ("EXECUTING RUNNING|WAITING", "EXHAUSTED? undo"),
]
CERTAINLY_NOT: list[Row] = [
    ("COMPENSATING RUNNING", "CANCELLED undo"),
    ("EXECUTING RUNNING|WAITING kept !unknown !last", "CANCELLED undo"),
    ("EXECUTING RUNNING|WAITING kept !unknown", "EXHAUSTED undo"),
    ("EXECUTING RUNNING|WAITING !last", "RETRYING"),
    ("EXECUTING RUNNING|WAITING past !holds", "RETRYING"),
    ("EXECUTING RUNNING|WAITING holds !kept", "EXHAUSTED"),
    ("EXECUTING RUNNING|WAITING pivot unknown", "RETRYING kept"),
    ("EXECUTING RUNNING|WAITING", "EXHAUSTED undo"),
]
TURN: list[Row] = [
    ("pivot RUNNING|WAITING", "kept"),
    ("pivot unknown EXHAUSTED", "SCHEDULED kept"),
    ("pivot unknown", "kept"),
    ("RUNNING", "COMPENSATING"),
    ("WAITING", "CANCELLED? undo"),
    ("PENDING|SCHEDULED|RETRYING", "CANCELLED undo"),
    ("EXHAUSTED", "undo"),
]
MAY_BEGIN = "EXECUTING !paused !held SCHEDULED|RETRYING"
MAY_BEGIN_UNDO = "COMPENSATING !paused -SCHEDULED|-RETRYING"
IN_TROUBLE = "EXECUTING RETRYING|EXHAUSTED|REFUSED"

UNDO_UNKNOWN: list[Row] = [
    ("COMPENSATING -RUNNING|-WAITING !-last", "-RETRYING?"),
    ("COMPENSATING -RUNNING|-WAITING", "-FAILED? COMPENSATION_FAILED"),
]
UNDO_CERTAINLY_NOT: list[Row] = [
    ("COMPENSATING -RUNNING|-WAITING !-last", "-RETRYING"),
    ("COMPENSATING -RUNNING|-WAITING", "-FAILED COMPENSATION_FAILED"),
]

TABLE: dict[str, list[Row]] = {
    # from workers
    "claim": [(MAY_BEGIN, "RUNNING")],
    "claim before it is due": [("EXECUTING !paused !held SCHEDULED", "RUNNING")],
    "its condition is false": [(f"{MAY_BEGIN} kept", "SKIPPED undo"), (MAY_BEGIN, "SKIPPED COMPLETED")],
    "its expressions fail": [
        (f"{MAY_BEGIN} past", "REFUSED"),
        (f"{MAY_BEGIN} pivot unknown", "SCHEDULED found"),
        (MAY_BEGIN, "REFUSED undo"),
    ],
    "its participant is missing": [(f"{MAY_BEGIN} !missing", "missing")],
    "succeeds": [
        ("COMPENSATING RUNNING", "SUCCEEDED! undo"),
        ("EXECUTING RUNNING|WAITING", "SUCCEEDED! COMPLETED"),
        ("EXECUTING SCHEDULED|RETRYING|EXHAUSTED tried", "SUCCEEDED! COMPLETED"),
    ],
    "an earlier attempt succeeds": [("EXECUTING SCHEDULED|RETRYING|EXHAUSTED twice", "SUCCEEDED! COMPLETED")],
    "an earlier attempt is refused": [],
    "an earlier attempt is unknown": [],
    "a later attempt succeeds": [],
    "refuses": [
        ("COMPENSATING RUNNING", "REFUSED undo"),
        ("EXECUTING RUNNING|WAITING past", "REFUSED"),
        ("EXECUTING RUNNING|WAITING pivot unknown", "RETRYING kept"),
        ("EXECUTING RUNNING|WAITING", "REFUSED undo"),
    ],
    "refuses for now": CERTAINLY_NOT,
    "was not sent": CERTAINLY_NOT,
    "is unknown": UNKNOWN,
    "is unknown for good": [row for row in UNKNOWN if "!last" not in row[0]],
    "is cut": [(guard, f"{result} open") for guard, result in UNKNOWN],
    "says 202": [("COMPENSATING RUNNING", "CANCELLED? undo"), ("EXECUTING RUNNING", "WAITING")],
    "falls due": [*UNKNOWN, (MAY_BEGIN, "SCHEDULED")],
    "its window ends": [("COMPENSATING -PENDING open !RUNNING !paused", "-SCHEDULED shut"), ("open", "shut ignored")],
    "the deadline passes": [
        ("paused|held|overdue|COMPENSATING", "ignored"),
        ("EXECUTING past", "overdue found"),
        *((f"EXECUTING {guard}", f"{result} overdue") for guard, result in TURN),
    ],
    "is looked at for nothing": [],
    "is admitted": [],
    "it is time to start": [("CREATED !paused", "EXECUTING SCHEDULED")],
    # of the compensation
    "-claim": [(MAY_BEGIN_UNDO, "-RUNNING")],
    "-its expressions fail": [(MAY_BEGIN_UNDO, "-FAILED COMPENSATION_FAILED")],
    "-its participant is missing": [(f"{MAY_BEGIN_UNDO} !missing", "missing")],
    "-succeeds": [
        ("COMPENSATING -RUNNING|-WAITING", "-COMPENSATED! FAILED"),
        ("COMPENSATING -SCHEDULED|-RETRYING -tried", "-COMPENSATED! FAILED"),
    ],
    "-an earlier attempt succeeds": [("COMPENSATING -SCHEDULED|-RETRYING -twice", "-COMPENSATED! FAILED")],
    "-refuses": [("COMPENSATING -RUNNING|-WAITING", "-FAILED COMPENSATION_FAILED")],
    "-refuses for now": UNDO_CERTAINLY_NOT,
    "-was not sent": UNDO_CERTAINLY_NOT,
    "-is unknown": UNDO_UNKNOWN,
    "-is unknown for good": UNDO_UNKNOWN[1:],
    "-is cut": [(guard, f"{result} -open") for guard, result in UNDO_UNKNOWN],
    "-says 202": [("COMPENSATING -RUNNING", "-WAITING")],
    "-falls due": [*UNDO_UNKNOWN, (MAY_BEGIN_UNDO, "-SCHEDULED")],
    "-its window ends": [("-open", "-shut ignored")],
    # from people
    "cancel": [
        REST,
        ("past", "409 past-pivot"),
        ("COMPENSATING paused -PENDING !RUNNING", "resume undo"),
        ("COMPENSATING paused", "resume"),
        ("COMPENSATING", "ignored"),
        ("kept !paused", "ignored"),
        *((guard, f"resume {result}") for guard, result in TURN),
    ],
    "retry": [
        FINAL,
        ("COMPENSATION_FAILED", "COMPENSATING -SCHEDULED"),
        ("COMPENSATING -RETRYING", "-SCHEDULED found"),
        (IN_TROUBLE, "SCHEDULED found"),
        ("", "409 nothing-to-retry"),
    ],
    "retry with a new input": [
        FINAL,
        ("EXECUTING RUNNING|open", "409 attempt-running"),
        (f"{IN_TROUBLE} unknown", "409 outcome-unknown"),
        (IN_TROUBLE, "SCHEDULED renewed found"),
        ("", "409 nothing-to-retry"),
    ],
    "retry with a new input, confirmed": [
        FINAL,
        ("EXECUTING RUNNING|open", "409 attempt-running"),
        (IN_TROUBLE, "SCHEDULED renewed found"),
        ("", "409 nothing-to-retry"),
    ],
    "skip": [
        REST,
        ("EXECUTING RUNNING|open", "409 attempt-running"),
        (f"{IN_TROUBLE} unknown", "409 outcome-unknown"),
        (IN_TROUBLE, "SKIPPED COMPLETED"),
        ("", "409 step-not-skippable"),
    ],
    "skip, confirmed": [
        REST,
        ("EXECUTING RUNNING|open", "409 attempt-running"),
        (f"{IN_TROUBLE} kept", "SKIPPED undo"),
        (IN_TROUBLE, "SKIPPED COMPLETED"),
        ("", "409 step-not-skippable"),
    ],
    "resolve": [
        FINAL,
        ("-FAILED -open", "409 attempt-running"),
        ("-FAILED", "-RESOLVED FAILED"),
        ("", "409 nothing-to-resolve"),
    ],
    "abandon": [
        FINAL,
        ("RUNNING|WAITING", "CANCELLED? ABANDONED"),
        ("PENDING|SCHEDULED|RETRYING", "CANCELLED ABANDONED"),
        ("-RUNNING|-WAITING", "-PENDING? ABANDONED"),
        ("-SCHEDULED|-RETRYING", "-PENDING ABANDONED"),
        ("", "ABANDONED"),
    ],
    "pause": [REST, ("paused", "409 already-paused"), ("", "pause")],
    "resume": [
        REST,
        ("!paused", "409 not-paused"),
        ("COMPENSATING -PENDING !RUNNING", "resume undo"),
        ("", "resume"),
    ],
    "extend": [REST, ("COMPENSATING", "409 saga-compensating"), ("", "in time")],
    "extend to earlier": [REST, ("COMPENSATING", "409 saga-compensating"), ("", "409 deadline-not-later")],
}

# --- the sagas --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sort:
    """A saga to look at, at one of its steps."""

    definition: Definition
    step: int = 0
    delayed: bool = False

    def first(self) -> State:
        later = T0 + 60 * SECOND if self.delayed else None
        state = machine.create(self.definition, T0, saga_id=ID, timing=TIMING, start_at=later).state
        for done in range(self.step):
            for message in (Claim(T0, done, ACTION), Answered(T0, done, ACTION, 1, Outcome(OutcomeKind.SUCCEEDED))):
                state = machine.step(self.definition, state, message, saga_id=ID, timing=TIMING).state
        return state


BARE = a_step("a", compensation=None)
SORTS = {
    "plain": Sort(chain("a")),
    "one attempt": Sort(chain(a_step("a", attempts=1, undo_attempts=1))),
    "nothing to undo": Sort(chain(BARE)),
    "holds": Sort(chain(a_step("a", on_exhausted="pause"))),
    "pivot": Sort(chain(a_pivot("a"))),
    "pivot that holds": Sort(chain(a_pivot("a", on_exhausted="pause"))),
    "pivot that can be undone": Sort(chain(a_step("a", pivot=True))),
    "after the pivot": Sort(chain(a_pivot("p"), replace(BARE, retry=policy(2))), step=1),
    "after the pivot, holds": Sort(chain(a_pivot("p"), replace(BARE, on_exhausted="pause")), step=1),
    "delayed": Sort(chain("a"), delayed=True),
}


def words(sort: Sort, state: State) -> frozenset[str]:
    plan = sort.definition.steps[sort.step]
    action, undo = state.steps[sort.step].action, state.steps[sort.step].compensation
    past = any(state.steps[p].action.state is CallState.SUCCEEDED for p in sort.definition.pivots)
    executing = state.state is SagaState.EXECUTING
    undoing = state.state in {SagaState.COMPENSATING, SagaState.COMPENSATION_FAILED}
    # A step in one of these states has not turned the saga, so it holds it.
    held = executing and action.state in {CallState.EXHAUSTED, CallState.REFUSED}
    exists = {
        str(state.state): True,
        str(action.state): True,
        f"-{undo.state}": True,
        "paused": state.pause,
        "held": held,
        "kept": state.turn is not None and executing,
        "overdue": state.deadline_fired,
        "unknown": action.unknown,
        "-unknown": undo.unknown,
        "open": (action.quiet_until or 0) > T0,
        "-open": (undo.quiet_until or 0) > T0,
        # Where they decide nothing they would only multiply the states.
        "last": executing and action.spent >= plan.retry.max_attempts,
        "-last": undoing and undo.spent >= plan.compensation_retry.max_attempts,
        "tried": executing and action.attempts >= action.key_from,
        "-tried": undoing and undo.attempts >= 1,
        "twice": executing and action.attempts - 1 >= action.key_from,
        "-twice": undoing and undo.attempts >= 2,
        "undoable": plan.compensation is not None,
        "holds": plan.on_exhausted == "pause",
        "pivot": plan.pivot,
        "past": past,
        "missing": state.attention is not None and state.attention.code == "participant-missing",
    }
    return frozenset(word for word, does in exists.items() if does)


# --- telling ----------------------------------------------------------------------------------------------------

ANSWERS = {
    "succeeds": Outcome(OutcomeKind.SUCCEEDED),
    "refuses": Outcome(OutcomeKind.REFUSED),
    "refuses for now": Outcome(OutcomeKind.REFUSED, retriable=True),
    "was not sent": Outcome(OutcomeKind.NOT_SENT),
    "is unknown": Outcome(OutcomeKind.UNKNOWN),
    "is unknown for good": Outcome(OutcomeKind.UNKNOWN, retriable=False),
    "is cut": Outcome(OutcomeKind.UNKNOWN, may_run_seconds=60),
    "says 202": Outcome(OutcomeKind.PENDING),
}
OF_OTHERS = {
    "an earlier attempt succeeds": (-1, ANSWERS["succeeds"]),
    "an earlier attempt is refused": (-1, ANSWERS["refuses"]),
    "an earlier attempt is unknown": (-1, ANSWERS["is unknown"]),
    "a later attempt succeeds": (1, ANSWERS["succeeds"]),
}
DATED_BACK = {"claim", "its condition is false", "its expressions fail", "its participant is missing", "falls due"}


def message_for(name: str, sort: Sort, state: State) -> tuple[State, Message]:
    """The message, and the saga at the moment when it comes."""
    operation: Operation = COMPENSATION if name.startswith("-") else ACTION
    word, step, by = name.removeprefix("-"), sort.step, OPERATOR
    call = state.call(step, operation)
    if word in DATED_BACK and call.due_at is not None:
        state = state.with_call(step, operation, replace(call, due_at=T0))
    if word == "its window ends":
        state = state.with_call(step, operation, replace(call, quiet_until=T0))
    if word == "it is time to start":
        state = replace(state, start_at=T0)
    if word == "the deadline passes":
        state = replace(state, deadline_at=T0)
    if word in ANSWERS:
        return state, Answered(T0, step, operation, call.attempts, ANSWERS[word])
    if word in OF_OTHERS:
        away, outcome = OF_OTHERS[word]
        return state, Answered(T0, step, operation, call.attempts + away, outcome)
    left = (state.deadline_at - T0) / SECOND
    messages: dict[str, Message] = {
        "claim": Claim(T0, step, operation),
        "claim before it is due": Claim(T0, step, operation),
        "its condition is false": ConditionFalse(T0, step),
        "its expressions fail": Inexpressible(T0, step, operation, "division by zero"),
        "its participant is missing": ParticipantMissing(T0, step, operation, "gone"),
        "falls due": Woken(T0),
        "its window ends": Woken(T0),
        "the deadline passes": Woken(T0),
        "is looked at for nothing": Woken(T0),
        "it is time to start": Woken(T0),
        "is admitted": Admitted(T0),
        "cancel": Cancel(T0, by),
        "retry": Retry(T0, by),
        "retry with a new input": Retry(T0, by, new_input=True),
        "retry with a new input, confirmed": Retry(T0, by, new_input=True, confirm_not_done=True),
        "skip": Skip(T0, by, step),
        "skip, confirmed": Skip(T0, by, step, confirm_not_done=True),
        "resolve": Resolve(T0, by, step),
        "abandon": Abandon(T0, by),
        "pause": Pause(T0, by),
        "resume": Resume(T0, by),
        "extend": Extend(T0, by, left + 1000),
        "extend to earlier": Extend(T0, by, left),
    }
    return state, messages[word]


def tell(name: str, sort: Sort, state: State) -> tuple[State, Transition]:
    before, message = message_for(name, sort, state)
    transition = machine.step(sort.definition, before, message, saga_id=ID, timing=TIMING)
    check(sort.definition, before, message, transition)
    if not transition.records and "its window ends" not in name:
        return state, transition  # and what was dated back is as it was
    after = transition.state
    for place, operation, call in after.calls():
        if call.due_at == T0:
            after = after.with_call(place, operation, replace(call, due_at=T0 + 10 * SECOND))
    return after, transition


@dataclass(frozen=True)
class Cell:
    state: State
    message: str
    after: State
    transition: Transition


@cache
def every_cell(name: str) -> list[Cell]:
    """Each state that there is with each message, and what the machine makes of them."""
    sort, cells = SORTS[name], []
    first = sort.first()
    seen, to_do = {words(sort, first)}, deque([first])
    while to_do:
        state = to_do.popleft()
        for message in TABLE:
            if state.state is SagaState.CREATED and message == "the deadline passes":
                continue  # the timeout counts from the start
            after, transition = tell(message, sort, state)
            cells.append(Cell(state, message, after, transition))
            started = sort.delayed and state.state is not SagaState.CREATED  # then it is a plain one
            if words(sort, after) not in seen and not started:
                seen.add(words(sort, after))
                to_do.append(after)
    return cells


# --- reading the table ------------------------------------------------------------------------------------------


def fits(guard: str, said: frozenset[str]) -> bool:
    def fit(word: str) -> bool:
        return word[1:] not in said if word.startswith("!") else any(one in said for one in word.split("|"))

    return all(fit(word) for word in guard.split())


def expected(name: str, said: frozenset[str]) -> str:
    return next((result for guard, result in TABLE[name] if fits(guard, said)), "ignored")


SAGA = set(SagaState)
CALL = set(CallState)
WATCHED = {*SAGA, *CALL, *(f"-{state}" for state in CALL), "paused", "kept", "overdue", "unknown", "-unknown"}
WATCHED |= {"open", "-open", "missing"}
FOUND = {"found", "RUNNING", "-RUNNING", "SUCCEEDED", "REFUSED", "SKIPPED", "CANCELLED"}


def become(said: frozenset[str], result: str) -> frozenset[str]:
    """The words as the result says that they become."""
    now = set(said)

    def state_is(word: str) -> None:
        among = SAGA if word in SAGA and word not in CALL else {f"-{c}" for c in CALL} if word[0] == "-" else CALL
        now.difference_update(among)
        now.add(word)

    results = result.split()
    for word in results:
        name, sign = (word[:-1], word[-1]) if word[-1] in "?!" else (word, "")
        unknown = "-unknown" if name.startswith("-") else "unknown"
        if sign:
            (now.add if sign == "?" else now.discard)(unknown)
        if name == "resume":
            now.discard("paused")
        elif name == "pause":
            now.add("paused")
        elif name in {"shut", "-shut"}:
            now.discard(name.replace("shut", "open"))
        elif name in {"open", "-open", "overdue", "kept", "missing"}:
            now.add(name)
        elif name not in {"undo", "in", "time", "renewed", "found"}:
            # FAILED is of the saga here; that of a compensation is written -FAILED.
            state_is(name) if name != "FAILED" else saga_is(now, name)
    if "in time" in result:
        now.discard("overdue")
    if "undo" in results:
        saga_is(now, "COMPENSATING")
        if not (now & {"SUCCEEDED", "unknown"} and "undoable" in now):
            saga_is(now, "FAILED")
        elif not now & {"paused", "open"}:
            state_is("-SCHEDULED")
    rest(now)
    if {word.rstrip("?!") for word in results} & FOUND:
        now.discard("missing")
    return frozenset(now & WATCHED)


def saga_is(now: set[str], name: str) -> None:
    others = SAGA if name != "FAILED" else SAGA - {"FAILED"}
    now.difference_update(others)
    now.add(name)


def rest(now: set[str]) -> None:
    """What every saga leaves behind that turns, goes on or comes to rest."""
    if now & {"COMPENSATING", "COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"}:
        now.discard("kept")
    if now & {"COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"}:
        now -= {"paused", "missing"}
        if "-PENDING" in now and "ABANDONED" not in now:
            now.discard("-PENDING")
            now.add("-NOT_NEEDED")


@pytest.mark.parametrize("name", SORTS)
def test_every_state_and_every_message(name):
    sort = SORTS[name]
    for cell in every_cell(name):
        said, transition = words(sort, cell.state), cell.transition
        result = expected(cell.message, said)
        where = f"{cell.message}, told to {sorted(said)}: {result}"
        if result.startswith("409"):
            assert transition.refusal is not None, where
            assert transition.refusal.code == result.removeprefix("409 "), where
            assert cell.after == cell.state, where
        elif "ignored" in result.split():
            assert transition.refusal is None, where
            assert not transition.records, where
        else:
            assert transition.records, where
            assert words(sort, cell.after) & WATCHED == become(said, result), where
    assert len(every_cell(name)) > 200


def test_every_kind_of_record_has_a_fold_and_is_written_somewhere():
    assert set(history._FOLD) | {RecordType.SAGA_CREATED} == set(RecordType)
    written = {record.type for name in SORTS for cell in every_cell(name) for record in cell.transition.records}
    assert written | {RecordType.SAGA_CREATED} == set(RecordType)


NAMES = {
    SagaState: "CREATED EXECUTING COMPLETED COMPENSATING FAILED COMPENSATION_FAILED ABANDONED",
    CallState: """
        PENDING SCHEDULED RUNNING WAITING RETRYING SUCCEEDED REFUSED EXHAUSTED SKIPPED CANCELLED
        COMPENSATED FAILED NOT_NEEDED RESOLVED""",
    RecordType: """
        SagaCreated SagaStarted StepScheduled StepStarted StepSucceeded StepRefused StepAttemptFailed StepAttemptLost
        StepWaiting StepExhausted StepSkipped SagaTimedOut SagaCancelled CompensationBegan CompensationScheduled
        CompensationStarted CompensationSucceeded CompensationAttemptFailed CompensationFailed CompensationResolved
        SagaCompleted SagaFailed SagaCompensationFailed SagaPaused SagaResumed SagaExtended SagaAbandoned OperatorActed
        AttentionRaised""",
}


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
def test_states_and_events_have_the_names_that_others_rely_on(kind):
    assert {str(each) for each in kind} == set(NAMES[kind].split())


@pytest.mark.parametrize("name", SORTS)
def test_a_final_state_never_changes(name):
    finals = [cell for cell in every_cell(name) if cell.state.final]
    assert finals
    for cell in finals:
        assert not cell.transition.records


def test_every_row_of_the_table_is_needed():
    used = set()
    for name, sort in SORTS.items():
        for cell in every_cell(name):
            said = words(sort, cell.state)
            used |= {(cell.message, row) for row in TABLE[cell.message] if fits(row[0], said)}
    unused = [(message, row) for message, rows in TABLE.items() for row in rows if (message, row) not in used]
    assert unused == []
