"""What people may do to a saga as it stands.

The machine itself is asked, with a message on trial, so this list cannot disagree with what it would do. Consent that a
request can still give is taken as given: `confirm_not_done`, a later deadline.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.saga import machine
from app.saga.definition import Definition
from app.saga.draft import Timing
from app.saga.messages import (
    Abandon,
    Actor,
    Cancel,
    Extend,
    FromOperator,
    Pause,
    Refusal,
    Resolve,
    Resume,
    Retry,
    Skip,
)
from app.saga.state import SECOND, Micros, State

_SOMEBODY: Final = Actor("somebody")
_TIMING: Final = Timing()
"""Of what would be written, which is thrown away."""
_HOUR_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one action. `steps`: those that it may be done to, where it is done to a step."""

    refusal: Refusal | None = None
    steps: tuple[str, ...] = ()


def verdicts(definition: Definition, state: State, at: Micros) -> dict[str, Verdict]:
    """By action. Where one that names a step is allowed of none, why: an attempt that may still run before all else."""

    def refusal(message: FromOperator) -> Refusal | None:
        return machine.step(definition, state, message, saga_id="", timing=_TIMING).refusal

    def stepwise(messages: Iterable[FromOperator]) -> Verdict:
        refusals = [refusal(message) for message in messages]
        steps = tuple(plan.name for plan, refused in zip(definition.steps, refusals, strict=True) if refused is None)
        if steps:
            return Verdict(None, steps)
        telling = (refused for refused in refusals if refused is not None)
        return Verdict(min(telling, key=lambda refused: refused.code != "attempt-running"))

    positions = range(len(definition.steps))
    later = max(state.deadline_at - at, 0) / SECOND + _HOUR_SECONDS
    retry = stepwise(Retry(at, _SOMEBODY, step=p) for p in positions)
    return {
        "retry": Verdict(refusal(Retry(at, _SOMEBODY)), retry.steps),
        "restart": Verdict(refuse_restart(definition, state)),
        "skip": stepwise(Skip(at, _SOMEBODY, p, confirm_not_done=True) for p in positions),
        "resolve": stepwise(Resolve(at, _SOMEBODY, p) for p in positions),
        "compensate": Verdict(refusal(Cancel(at, _SOMEBODY))),
        "abandon": Verdict(refusal(Abandon(at, _SOMEBODY))),
        "pause": Verdict(refusal(Pause(at, _SOMEBODY))),
        "resume": Verdict(refusal(Resume(at, _SOMEBODY))),
        "extend": Verdict(refusal(Extend(at, _SOMEBODY, later))),
    }


def allowed(definition: Definition, state: State, at: Micros) -> list[str]:
    """The names of the actions that the saga's state allows now."""
    return [action for action, verdict in verdicts(definition, state, at).items() if verdict.refusal is None]


def refuse_restart(definition: Definition, state: State) -> Refusal | None:
    """A restart changes nothing of the saga itself, so the machine is not told of it."""
    if definition.type == "choreography":
        detail = f"Events begin a choreographed saga: publish {definition.started_by} with a correlation of its own."
        return Refusal("saga-is-choreographed", detail)
    if state.at_rest:
        return None
    return Refusal("saga-not-at-rest", f"The saga is {state.state}; only one that is at rest can be restarted.")
