"""Dead letters: the manual intervention queue."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import MayLook, MayOperate, house_of, read_reasoned
from app.api.openapi import describe, parameter, several
from app.api.sagas import CURSOR, LIMIT, OF_SAGA, json_response, page_response, saga_response
from app.errors import Problem
from app.filters import PAGING, Query, uuid
from app.house import House
from app.instants import rfc3339
from app.operating import Operator
from app.redacting import masked_event
from app.saga.fields import shown
from app.store.letters import STATUSES
from app.store.sagas import Saga

router = APIRouter(prefix="/admin/api", tags=["admin"])


def _letter_status(text: str) -> str:
    if text not in STATUSES:
        raise ValueError(f"must be one of {', '.join(STATUSES)}, not {shown(text)}")
    return text


async def _letter_view(house: House, letter: Mapping[str, Any]) -> dict[str, Any]:
    view = {**letter, "created_at": rfc3339(letter["created_at"])}
    if isinstance(event := letter.get("event"), dict):
        followers = await house.definitions.followers(str(event.get("type")))
        view["event"] = masked_event(event, [follower.definition for follower in followers])
    return view


@router.get(
    "/dead-letters",
    **describe(
        "Operations that were given up, newest first",
        answers={200: schemas.LetterPage},
        problems=(422,),
        parameters=(
            parameter("status", "query", "`open` waits for a person", several({"enum": list(STATUSES)})),
            OF_SAGA,
            LIMIT,
            CURSOR,
        ),
    ),
)
async def letters(request: Request, caller: MayLook) -> Response:
    query = Query(request, ("status", "saga_id", *PAGING))
    statuses = query.many("status", _letter_status, commas=True)
    of_saga, limit, place = query.one("saga_id", uuid), query.limit(), query.place()
    query.check()
    found, following = await house_of(request).letters.page(
        caller.sees, limit=limit, after=place, statuses=statuses, saga_id=of_saga
    )
    cursor = None if following is None else following.cursor()
    return page_response(query, [await _letter_view(house_of(request), letter) for letter in found], cursor)


PROBLEMS: Final = (400, 404, 409, 413, 422)


@router.post(
    "/dead-letters/{id}/retry",
    **describe(
        "Try the operation again",
        "An event that could not be processed is processed again, one that could not be delivered is delivered again;"
        " the answer then is the letter.",
        body=schemas.Reason,
        answers={200: schemas.SagaOrLetter},
        problems=PROBLEMS,
    ),
)
async def retry_letter(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return await _answer(
        house_of(request), await Operator(house_of(request), caller).retry_letter(_letter_id(id), reason)
    )


@router.post(
    "/dead-letters/{id}/discard",
    **describe(
        "Close a letter, and leave its saga as it is",
        "Of an event the answer is the letter.",
        body=schemas.Reason,
        answers={200: schemas.SagaOrLetter},
        problems=PROBLEMS,
    ),
)
async def discard_letter(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return await _answer(
        house_of(request), await Operator(house_of(request), caller).discard_letter(_letter_id(id), reason)
    )


def _letter_id(id: str) -> str:  # noqa: A002
    try:
        return uuid(id)
    except ValueError:
        raise Problem(404, "letter-not-found", f"There is no dead letter {shown(id)}.") from None


async def _answer(house: House, done: Saga | dict[str, Any]) -> Response:
    return saga_response(done) if isinstance(done, Saga) else json_response(await _letter_view(house, done))
