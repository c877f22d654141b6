"""Answers that come later: the participant of an attempt that said 202 tells how it ended."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app import observability
from app.api import schemas
from app.api.dependencies import checked, house_of, read_json
from app.api.openapi import describe
from app.api.sagas import json_response
from app.callbacks import AttemptName, read_token
from app.errors import Problem
from app.participants.contract import readable
from app.saga.messages import Outcome, OutcomeKind
from app.saga.state import CallState
from app.store.sagas import Saga
from app.strict_json import dumps
from app.submitting import payload

AGREES: Final = {
    OutcomeKind.SUCCEEDED: {CallState.SUCCEEDED, CallState.COMPENSATED},
    OutcomeKind.REFUSED: {CallState.REFUSED, CallState.FAILED},
}

router = APIRouter(tags=["callbacks"])


@router.post(
    "/callbacks/{token}",
    **describe(
        "The answer to an attempt that was accepted with 202",
        "The token is the credential. Repeated, it has no second effect.",
        body=schemas.CallbackRequest,
        answers={200: schemas.CallbackView},
        problems=(400, 404, 409, 413, 422),
        is_open=True,
    ),
)
async def answer(request: Request, token: str) -> Response:
    house = house_of(request)
    secret = house.settings.secret_key
    name = None if secret is None else read_token(secret.get_secret_value(), token)
    if name is None:
        raise Problem(404, "token-unknown", "This callback token is not one of ours.")
    told = checked(schemas.CallbackRequest, await read_json(request))
    saga = await house.sagas.load(name.saga_id)
    if saga is None or name.step not in saga.definition.index:
        raise Problem(404, "token-unknown", "The saga of this callback token is not there any more.")
    step = saga.definition.index[name.step]
    if told.status == "succeeded":
        outcome = Outcome(OutcomeKind.SUCCEEDED, "called back", output=payload(house, told.output, "The output"))
    else:
        outcome = Outcome(OutcomeKind.REFUSED, _message(told.error), answer=dumps(told.error))
    saga, transition = await house.engine.answer(saga, step, name.operation, name.attempt, outcome)
    if transition.records:
        observability.attempt(saga.definition, step, name.operation, outcome)
    elif not _repeated(saga, step, name, outcome.kind):
        detail = f"Saga {saga.id} has moved on: this attempt is not waited for any longer."
        raise Problem(409, "saga-moved-on", detail)
    return json_response({"accepted": True, "repeated": not transition.records})


def _repeated(saga: Saga, step: int, name: AttemptName, kind: OutcomeKind) -> bool:
    """Whether what is told is what stands already."""
    call = saga.state.call(step, name.operation)
    return call.state in AGREES[kind] and call.key_from <= name.attempt <= call.attempts


def _message(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    if error is None:
        return "refused by callback"
    return readable(error if isinstance(error, str) else dumps(error).decode())
