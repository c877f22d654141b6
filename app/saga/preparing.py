"""What a call is given: a step's `when` and `input`, evaluated at its claim over what the saga knows by then.

The worker and the test kit share this, so that an expression means the same to both.
"""

from collections.abc import Callable
from typing import Any

from app.saga import expressions
from app.saga.definition import Definition
from app.saga.messages import ConditionFalse, Inexpressible
from app.saga.state import ACTION, Micros, Operation, State


def known_to(
    definition: Definition,
    state: State,
    step: int,
    *,
    saga_id: str,
    key: str,
    saga_input: Callable[[], Any],
    output: Callable[[str], Any],
) -> dict[str, Any]:
    """The document that a step's expressions see: what is upstream of it."""
    return expressions.document(
        saga_input(),
        {
            other.name: (str(state.steps[position].action.state), output(other.name))
            for position, other in enumerate(definition.steps)
            if position in definition.upstream[step]
        },
        saga_id=saga_id,
        key=key,
        name=definition.name,
    )


def prepare(
    definition: Definition,
    state: State,
    step: int,
    operation: Operation,
    *,
    at: Micros,
    saga_id: str,
    key: str,
    renewed: bool,
    saga_input: Callable[[], Any],
    output: Callable[[str], Any],
) -> dict[str, Any] | ConditionFalse | Inexpressible | None:
    """The step's mapped input; None where it is given its input as it stands; or why there is no call.

    `renewed`: an operator has given the step an input of its own. `saga_input` and `output` (of a step, by name) are
    asked only where there is something to evaluate.
    """
    plan = definition.steps[step]
    as_it_stands = renewed or plan.input is None
    if plan.when is None and as_it_stands:
        return None
    document = known_to(definition, state, step, saga_id=saga_id, key=key, saga_input=saga_input, output=output)
    try:
        first = operation == ACTION and state.steps[step].action.attempts == 0
        if first and plan.when is not None and not expressions.truthy(expressions.evaluate(plan.when, document)):
            return ConditionFalse(at, step)
        return None if as_it_stands else expressions.evaluate_mapping(plan.input or {}, document)
    except expressions.ExpressionFailed as error:
        return Inexpressible(at, step, operation, str(error))
