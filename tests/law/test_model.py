"""The protocol is model-checked (protocol/model.py), and the machine agrees with what was checked.

The transitions of the model's state space are walked, rows that have been seen least often first; those that concern
the saga's row are told to the machine as the message that they stand for, and both rows are compared: saga state, kept
turn, pause, and for each step the action, its attempts, what is unknown, what may still run, the compensation and its
attempts.

The model has no clock: a lease ends when the walk says so. So here no time passes either, and what is to become due
is dated back to now. Times are the business of the other tests.

Where the two differ on purpose (each is counted, and a difference that no longer occurs fails the test):

- `refused-late`: a refusal that comes after the turn makes the step REFUSED; the model calls it CANCELLED.
- `sent-at-once`: a step that was exhausted beside the pivot is sent at once when the pivot has succeeded; the model
  lets it wait like a retry.
- `undone-late`: a late success ends a compensation that waits to be repeated, like an action (rule 6 speaks of both);
  the model knows this of actions only.
- `waits-for-all`: a compensation also waits while a later step that has nothing to undo may still run after a cut
  (rule 3: 'an action that has ended'); the model passes such a step over.
- `failure-mended`: a turn that is kept because a step beside the pivot has failed ends when that step is retried,
  skipped, or succeeds late after all. The model keeps it for ever. A kept cancel or timeout is kept by both.
- NOT_NEEDED is written when the saga comes to rest; the model writes it as soon as it is known.

`SAGA_MODEL_STATES` bounds the states of each configuration (3000 by default).
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

import pytest

from app.saga import machine
from app.saga.definition import Definition
from app.saga.messages import (
    Abandon,
    Answered,
    Cancel,
    Claim,
    Message,
    Outcome,
    OutcomeKind,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Woken,
)
from app.saga.rules import may_still_run, paused, turn_wanted
from app.saga.state import ACTION, COMPENSATION, CallState, Operation, SagaState, State

from .build import ID, OPERATOR, T0, TIMING, a_step, check, define
from .protocol import model

STATES = int(os.environ.get("SAGA_MODEL_STATES", "3000"))
EVERYTHING = ("cancel", "pause", "retry", "skip", "resolve", "abandon")

CONFIGURATIONS = {
    "one step, everything": {"shape": "one", "f": 1, "b": 2, "o": 1, "ops": EVERYTHING},
    "one step, 202": {"shape": "one", "variant": "B", "f": 1, "b": 1, "o": 1, "ops": EVERYTHING, "async_": True},
    "one step that holds": {"shape": "one", "f": 1, "b": 2, "o": 2, "ops": EVERYTHING, "on_exh": "pause"},
    "one step, new keys": {"shape": "one", "f": 1, "b": 2, "o": 2, "ops": ("retrykey", "cancel"), "on_exh": "pause"},
    "two steps": {"shape": "chain2", "f": 1, "b": 1, "o": 1, "ops": EVERYTHING},
    "two steps, worse": {"shape": "chain2", "f": 2, "b": 2},
    "two branches": {"shape": "par2", "f": 1, "b": 1, "o": 1, "ops": ("cancel", "pause", "retry")},
    "two branches that hold": {"shape": "par2", "f": 0, "b": 2, "o": 1, "ops": ("cancel", "skip"), "on_exh": "pause"},
    "fork": {"shape": "fork", "f": 1, "b": 1, "o": 1, "ops": ("cancel", "pause")},
    "join": {"shape": "join", "f": 1, "b": 1, "o": 1, "ops": ("cancel",)},
    "nothing to undo in the middle": {"shape": "chain3", "none": (1,), "f": 1, "b": 1, "o": 1, "ops": ("cancel",)},
    "pivot": {"shape": "chain2", "none": (1,), "pivot": 1, "f": 1, "b": 2, "o": 1, "ops": ("cancel", "pause", "retry")},
    "pivot in the middle": {
        "shape": "chain3",
        "none": (1, 2),
        "pivot": 1,
        "f": 1,
        "b": 2,
        "o": 1,
        "ops": ("cancel", "pause", "retry", "skip"),
    },
    "pivot first": {"shape": "chain2", "none": (0, 1), "pivot": 0, "f": 0, "b": 3, "o": 1, "ops": ("retry", "skip")},
    "beside the pivot": {
        "shape": "par2",
        "none": (0, 1),
        "pivot": 1,
        "maxatt": 1,
        "f": 1,
        "b": 2,
        "o": 1,
        "ops": ("cancel", "retry", "skip"),
    },
    "mended beside the pivot": {
        "shape": "par2",
        "none": (0, 1),
        "pivot": 1,
        "maxatt": 1,
        "deadline": False,
        "f": 0,
        "b": 1,
        "o": 1,
        "ops": ("retry", "skip"),
    },
    "pivot after two": {"shape": "join", "none": (2,), "pivot": 2, "f": 1, "b": 1, "o": 1, "ops": ("cancel",)},
    "halt": {
        "shape": "chain3",
        "on_cf": "halt",
        "maxatt": 1,
        "f": 0,
        "b": 3,
        "o": 2,
        "ops": ("retry", "resolve", "cancel"),
    },
    "halt in a fork": {
        "shape": "fork",
        "on_cf": "halt",
        "maxatt": 1,
        "f": 0,
        "b": 3,
        "o": 2,
        "ops": ("retry", "resolve"),
    },
    "continue": {"shape": "chain2", "maxatt": 1, "f": 0, "b": 3, "o": 2, "ops": ("retry", "resolve")},
    "continue in a fork": {"shape": "fork", "maxatt": 1, "f": 1, "b": 2, "o": 2, "ops": ("retry", "resolve")},
}


def definition_of(cfg: model.Cfg) -> Definition:
    names = "ABC"[: cfg.n]
    return define(
        *(
            a_step(
                name,
                after=[names[other] for other in cfg.deps[place]],
                attempts=cfg.maxatt,
                undo_attempts=cfg.maxatt,
                compensation=None if place in cfg.none else "undo",
                pivot=place == cfg.pivot,
                on_exhausted=cfg.on_exh,
            )
            for place, name in enumerate(names)
        ),
        on_compensation_failure=cfg.on_cf,
    )


# --- from the model's words to messages -------------------------------------------------------------------------

OUTCOMES = {
    "ok": Outcome(OutcomeKind.SUCCEEDED),
    "refused": Outcome(OutcomeKind.REFUSED),
    "unknown(cut)": Outcome(OutcomeKind.UNKNOWN, may_run_seconds=8),
    "unknown(over)": Outcome(OutcomeKind.UNKNOWN),
    "not-sent": Outcome(OutcomeKind.NOT_SENT),
    "202": Outcome(OutcomeKind.PENDING),
    "success": Outcome(OutcomeKind.SUCCEEDED),
}
CLAIM = re.compile(r"claim (\w)/(\w+) attempt (\d+)")
DROPPED = re.compile(r"message (\w)/(\w+) arrives, dropped")
ANSWER = re.compile(r"outcome (\S+) of (\w)/(\w+) (\d+) written")
CALLBACK = re.compile(r"callback (\w)/(\w+) (\d+) (\w+) arrives")
LEASE = re.compile(r"lease of (\w)/(\w+) (\d+) (?:ends|is over)")
DUE = re.compile(r"(?:retry of|re-send|callback limit of) (\w)(?:/(\w+))?")
NEW_KEY = re.compile(r"operator: retry (\w) with new input")
OPERATE = re.compile(r"operator: (\w+)(?: (\w))?$")
OUTSIDE = re.compile(
    r"message .* lost|worker of .* dies|request .* leaves|participant|job of|.*: (?:no connection|connection cut|full)"
)


def place_of(letter: str) -> int:
    return "ABC".index(letter)


def operation_of(word: str | None) -> Operation:
    return COMPENSATION if word == "comp" else ACTION


def due_now(state: State, place: int, operation: Operation) -> State:
    return state.with_call(place, operation, replace(state.call(place, operation), due_at=T0))


def window_is_over(state: State, place: int, operation: Operation) -> State:
    return state.with_call(place, operation, replace(state.call(place, operation), quiet_until=T0))


def translate(label: str, state: State, after: model.M) -> tuple[State, Message | None]:
    """The machine's row as it is when the message comes, and the message; None is for what only others see."""
    if label == "saga timeout":
        return replace(state, deadline_at=T0), Woken(T0)
    if label == "cancel answered 202":
        return state, Cancel(T0, OPERATOR)
    if found := CLAIM.match(label) or DROPPED.match(label):
        return state, Claim(T0, place_of(found[1]), operation_of(found[2]))
    if found := ANSWER.match(label):
        return state, Answered(T0, place_of(found[2]), operation_of(found[3]), int(found[4]), OUTCOMES[found[1]])
    if found := CALLBACK.match(label):
        return state, Answered(T0, place_of(found[1]), operation_of(found[2]), int(found[3]), OUTCOMES[found[4]])
    if found := LEASE.match(label):
        place, operation, attempt = place_of(found[1]), operation_of(found[2]), int(found[3])
        call = state.call(place, operation)
        if call.state is CallState.RUNNING and call.attempts == attempt:
            return due_now(state, place, operation), Woken(T0)
        if not windows(after.steps[place], operation):
            state = window_is_over(state, place, operation)
        return state, Woken(T0)
    if found := NEW_KEY.match(label):
        return state, Retry(T0, OPERATOR, new_input=True, confirm_not_done=True, step=place_of(found[1]))
    if found := OPERATE.match(label):
        return state, operate(found[1], found[2])
    if found := DUE.match(label):
        return due_now(state, place_of(found[1]), operation_of(found[2])), Woken(T0)
    assert OUTSIDE.match(label), f"the model says something new: {label}"
    return state, None


def operate(what: str, letter: str | None) -> Message:
    if letter is None:
        return {"pause": Pause, "resume": Resume, "retry": Retry, "abandon": Abandon}[what](T0, OPERATOR)
    if what == "skip":
        return Skip(T0, OPERATOR, place_of(letter), confirm_not_done=True)
    assert what == "resolve"
    return Resolve(T0, OPERATOR, place_of(letter))


# --- both rows, in the same words -------------------------------------------------------------------------------


def windows(row: list[int], operation: Operation) -> bool:
    """Whether the model says that an attempt other than the running one may still run."""
    bits, state, attempt = (
        (row[model.win_], row[model.a_], row[model.att_])
        if operation == ACTION
        else (row[model.cwin_], row[model.cs_], row[model.catt_])
    )
    if state == model.R:
        bits &= ~(1 << attempt)
    return bits != 0


def row_of_model(cfg: model.Cfg, m: model.M) -> dict[str, object]:
    row: dict[str, object] = {"saga": model.SN[m.st], "paused": bool(model.paused(cfg, m)), "kept": bool(m.want)}
    for place, x in enumerate(m.steps):
        name = "ABC"[place]
        row[name] = model.AN[x[model.a_]]
        row[f"{name} attempts"] = (x[model.att_], x[model.catt_])
        row[f"{name} unknown"] = bool(x[model.unk_])
        row[f"{name} may run"] = (windows(x, ACTION), windows(x, COMPENSATION))
        row[f"{name} undo"] = model.CN[x[model.cs_]]
    return row


def row_of_machine(definition: Definition, state: State) -> dict[str, object]:
    kept = state.state is SagaState.EXECUTING and turn_wanted(definition, state) is not None
    row: dict[str, object] = {"saga": str(state.state), "paused": paused(definition, state), "kept": kept}
    for place, record in enumerate(state.steps):
        name, action, undo = "ABC"[place], record.action, record.compensation
        row[name] = str(action.state)
        row[f"{name} attempts"] = (action.attempts, undo.attempts)
        row[f"{name} unknown"] = action.unknown
        row[f"{name} may run"] = tuple((call.quiet_until or 0) > T0 for call in (action, undo))
        needed = action.state is CallState.SUCCEEDED or action.unknown
        none = definition.steps[place].compensation is None or not needed
        ended = state.state is SagaState.COMPENSATING and action.state is not CallState.RUNNING
        row[f"{name} undo"] = "NOT_NEEDED" if none and ended and undo.state is CallState.PENDING else str(undo.state)
    return row


@dataclass
class Pair:
    """One state of the model, and the machine's row beside it."""

    encoded: bytes
    state: State
    ahead: frozenset[str] = frozenset()
    """Steps that the machine has sent at once (`sent-at-once`)."""


def differences(pair: Pair, left: dict[str, object], right: dict[str, object], met: Counter[str]) -> dict[str, object]:
    """What the rows disagree in, but for what they may."""
    found = {name: (value, right[name]) for name, value in left.items() if right[name] != value}
    saga = left["saga"]
    for name in "ABC":
        if name not in left:
            continue
        if saga in {"COMPLETED", "ABANDONED"}:
            found.pop(f"{name} undo", None)
        if saga == "ABANDONED":
            # The model leaves the row as it was; that nothing is under way any more is looked at by `check`.
            for what in (name, f"{name} unknown", f"{name} may run", "kept"):
                found.pop(what, None)
        if saga != "EXECUTING" and found.get(name) == ("CANCELLED", "REFUSED"):
            met["refused-late"] += 1
            del found[name]
        if name in pair.ahead and found.get(name) == ("RETRYING", "SCHEDULED"):
            met["sent-at-once"] += 1
            del found[name]
    return found


def on_purpose(definition: Definition, pair: Pair, m: model.M, label: str, message: Message | None) -> str | None:
    """The difference that a transition runs into, after which the two go different ways."""
    state = pair.state
    kept_failure = state.state is SagaState.EXECUTING and state.turn is None and turn_wanted(definition, state)
    if isinstance(message, Answered) and message.outcome.kind is OutcomeKind.SUCCEEDED:
        call = state.call(message.step, message.operation)
        repeats = call.state in {CallState.SCHEDULED, CallState.RETRYING}
        if message.operation == COMPENSATION and repeats:
            return "undone-late"
        if kept_failure and call.state is CallState.EXHAUSTED:
            return "failure-mended"
    if isinstance(message, Retry | Skip) and kept_failure:
        mended = [p for p, x in enumerate(m.steps) if x[model.a_] == model.EX]
        if isinstance(message, Retry) and mended:
            return "failure-mended"
        if isinstance(message, Skip) and message.step in mended:
            return "failure-mended"
    if isinstance(message, Retry | Skip | Claim) and pair.ahead:
        return "sent-at-once"
    return None


def walk(cfg: model.Cfg, met: Counter[str]) -> int:
    definition = definition_of(cfg)
    first = model.initial(cfg)
    made = machine.create(definition, T0, saga_id=ID, timing=TIMING, timeout_seconds=10_000)
    start = Pair(first.enc(), made.state)
    assert differences(start, row_of_model(cfg, first), row_of_machine(definition, made.state), met) == {}
    told, rows, order = 0, Counter[str](), count()
    seen, to_do = {start.encoded}, [(0, next(order), start)]
    while to_do and len(seen) < STATES:
        _, _, pair = heappop(to_do)
        m = model.dec(cfg, pair.encoded)
        for label, _, n in model.succ(cfg, pair.encoded):
            assert not n.viol, n.viol
            before, message = translate(label, pair.state, n)
            difference = on_purpose(definition, pair, m, label, message)
            after, encoded = before, n.enc()
            if message is None:
                assert row_of_model(cfg, m) == row_of_model(cfg, n), label
            else:
                told += 1
                transition = machine.step(definition, before, message, saga_id=ID, timing=TIMING)
                check(definition, before, message, transition)
                after = transition.state
                if difference:
                    met[difference] += 1
                    continue
                explain = f"{label}: {model.show(cfg, pair.encoded)} -> {model.show(cfg, encoded)}"
                assert transition.refusal is None, f"{explain}: {transition.refusal}"
                if label.startswith("re-send") and not m.want:
                    assert transition.dispatches, label
                if DROPPED.match(label):
                    assert not transition.records, f"claimed: {explain}"
            ahead = frozenset() if isinstance(message, Retry) else sent_ahead(definition, pair, before, after)
            beside = Pair(encoded, after, ahead)
            found = differences(beside, row_of_model(cfg, n), row_of_machine(definition, after), met)
            if found and all(waits_for_all(definition, after, what, said) for what, said in found.items()):
                met["waits-for-all"] += 1
                continue
            assert found == {}, f"{label}: model and machine say {found}; before: {model.show(cfg, pair.encoded)}"
            if encoded not in seen:
                seen.add(encoded)
                row = repr(row_of_model(cfg, n))
                rows[row] += 1
                heappush(to_do, (rows[row], next(order), beside))
    return told


def waits_for_all(definition: Definition, state: State, what: str, said: object) -> bool:
    if not what.endswith(" undo") or said != ("SCHEDULED", "PENDING"):
        return False
    later = definition.downstream[place_of(what[0])]
    nothing_to_undo = [place for place in later if definition.steps[place].compensation is None]
    return any(may_still_run(state.steps[place].action, T0) for place in nothing_to_undo)


def sent_ahead(definition: Definition, pair: Pair, before: State, after: State) -> frozenset[str]:
    names = set(pair.ahead)
    for place, plan in enumerate(definition.steps):
        was, now = before.steps[place].action.state, after.steps[place].action.state
        if was is CallState.EXHAUSTED and now is CallState.SCHEDULED:
            names.add(plan.name)
        elif now is not CallState.SCHEDULED:
            names.discard(plan.name)
    return frozenset(names)


MET: Counter[str] = Counter()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_machine_agrees_with_the_model(name):
    options = CONFIGURATIONS[name]
    told = walk(model.Cfg(**{"variant": "K", "late_ok": True, **options}), MET)
    assert told > 100


def test_every_difference_on_purpose_still_exists():
    for name in ("refused-late", "sent-at-once", "undone-late", "waits-for-all", "failure-mended"):
        assert MET[name], f"{name} does not occur any more: take it out of the list above"
