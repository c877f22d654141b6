"""Every failure of every step, one at a time, and what holds after each."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeAlias

from app.saga import rules
from app.saga.definition import RetryPolicy, Step
from app.saga.state import SagaState
from app.testing.result import Result
from app.testing.run import NotAtRest, Run
from app.testing.script import Script

MOST_ATTEMPTS: Final = 50
"""A larger budget of attempts is not used up: the step fails so often and then succeeds."""

Misfortune: TypeAlias = tuple[str, Callable[[Run], object]]


@dataclass(frozen=True, slots=True)
class Story:
    """One misfortune, and what came of it."""

    name: str
    result: Result


def every_failure(run: Run) -> Iterator[Story]:
    """Runs the definition once for each misfortune; what `run` was told of its participants holds in each.

    To each step that is called where nothing fails: a refusal; failures, lost answers, timeouts and connections that
    cannot be made, once and until its attempts are used up; a lost worker; a cancel during it and after it; and where
    it has to be undone, the same of its compensation. Where the saga then holds, a person has it compensated, or
    retried past the pivot.
    """
    numbers = count(1)

    def told(name: str, befalls: Callable[[Run], object]) -> Story:
        again = run.again(next(numbers))
        befalls(again)
        try:
            result = again.go()
            if result.held:
                past = rules.past_pivot(result.definition, result.saga_state)
                again.retry() if past else again.cancel()
                result = again.go()
        except NotAtRest as error:
            raise NotAtRest(f"{name}: {error}") from None
        return Story(name, result)

    smooth = told("nothing fails", lambda _: None)
    yield smooth
    for name in dict.fromkeys(call.step for call in smooth.result.sent):
        for misfortune in _misfortunes(run.definition.steps[run.definition.index[name]]):
            yield told(*misfortune)


def assert_all_or_nothing(run: Run, check: Callable[[Result], object] = lambda _: None) -> int:
    """After every failure all is done, or nothing is left, or a person is told of all that may be left.

    `check` is asked of every result as well; it raises AssertionError. Prints and returns how many stories there were.
    What steps with `compensation: none` leave behind is counted in the print and no fault.
    """
    states, left = Counter[str](), Counter[str]()
    for story in every_failure(run):
        try:
            story.result.assert_all_or_nothing()
            check(story.result)
        except AssertionError as error:
            raise AssertionError(f"{story.name}: {error}\n\n{story.result.timeline}") from error
        states[story.result.state] += 1
        if story.result.state == SagaState.FAILED:
            left.update(list(story.result.effects))
    told = ", ".join(f"{number} {state}" for state, number in states.most_common())
    print(f"{run.definition.name}: all or nothing in {states.total()} stories: {told}")  # noqa: T201 - pytest shows it
    for step, number in left.items():
        print(f"  {step} says that there is nothing to undo; its effect is left in {number} that FAILED")  # noqa: T201
    return states.total()


def _misfortunes(step: Step) -> Iterator[Misfortune]:
    def action(run: Run) -> Script:
        return run.step(step.name)

    yield f"{step.name} is refused", lambda run: action(run).refuses(on=1)
    yield from _faults(step.name, action, step.retry)
    yield f"a cancel comes during {step.name}", lambda run: run.cancel(during=step.name)
    yield f"a cancel comes after {step.name}", lambda run: run.cancel(after=step.name)
    if step.compensation is None:
        return

    def undone(run: Run) -> Script:
        """The surest way to a compensation, also of the last step: it is done, and nobody hears of it."""
        action(run).loses_the_answer(on=_budget(step.retry))
        return run.compensation(step.name)

    call = f"{step.name}/compensation"
    yield f"{call} is refused", lambda run: undone(run).refuses(on=1)
    yield from _faults(call, undone, step.compensation_retry)


def _faults(call: str, script: Callable[[Run], Script], policy: RetryPolicy) -> Iterator[Misfortune]:
    yield from _repeated(call, script, range(1, 2))
    if policy.max_attempts > 1:
        yield from _repeated(call, script, _budget(policy))
    yield f"the worker of {call} is lost before it", lambda run: script(run).loses_its_worker(on=1)
    yield f"the worker of {call} is lost after it", lambda run: script(run).loses_its_worker(on=1, took_effect=True)


def _repeated(call: str, script: Callable[[Run], Script], on: range) -> Iterator[Misfortune]:
    times = "once" if len(on) == 1 else f"{len(on)} times"
    yield f"{call} fails {times}", lambda run: script(run).fails(on=on)
    yield f"the answer of {call} is lost {times}", lambda run: script(run).loses_the_answer(on=on)
    yield f"{call} times out {times}", lambda run: script(run).times_out(on=on)
    yield f"{call} cannot be reached {times}", lambda run: script(run).cannot_connect(on=on)


def _budget(policy: RetryPolicy) -> range:
    return range(1, min(policy.max_attempts, MOST_ATTEMPTS) + 1)
