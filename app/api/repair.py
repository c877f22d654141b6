"""What operators do to sagas: look at what needs attention, and decide what no rule can decide."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access import Caller
from app.api import schemas
from app.api.dependencies import MayLook, MayOperate, etag, house_of, if_match, read_reasoned, saga_id
from app.api.openapi import describe, parameter
from app.api.sagas import CURSOR, FILTER_PARAMETERS, LIMIT, json_response, list_response, page_response, saga_response
from app.engine import now_of
from app.filters import PAGING, SAGA_FILTERS, Query, body_filter, saga_filter
from app.instants import rfc3339
from app.operating import NOT_GIVEN, Operator, bulk_job
from app.saga.actions import verdicts

router = APIRouter(prefix="/admin/api", tags=["admin"])

PROBLEMS: Final = (400, 404, 409, 412, 413, 422)
IF_MATCH: Final = (parameter("If-Match", "header", "An `ETag`: 412 where the saga has moved on"),)


def _action(what: str, body: type[schemas.Body] = schemas.Reason, status: int = 200) -> dict[str, Any]:
    return describe(what, body=body, answers={status: schemas.SagaView}, problems=PROBLEMS, parameters=IF_MATCH)


def _operator(request: Request, caller: Caller) -> Operator:
    return Operator(house_of(request), caller, if_match(request))


def _given(wanted: schemas.Reason, name: str) -> Any:
    """Null is a value too."""
    return getattr(wanted, name) if name in wanted.model_fields_set else NOT_GIVEN


@router.get(
    "/sagas",
    **describe(
        "Sagas, newest first; by default those that need attention",
        answers={200: schemas.SagaPage},
        problems=(422,),
        parameters=FILTER_PARAMETERS,
    ),
)
async def find(request: Request, caller: MayLook) -> Response:
    query = Query(request, (*SAGA_FILTERS, *PAGING, "payloads"))
    wanted = saga_filter(query, caller)
    if not any(name in query for name in SAGA_FILTERS):
        wanted = replace(wanted, attention=True)
    return await list_response(house_of(request), query, wanted)


@router.get(
    "/sagas/{id}/actions",
    **describe(
        "What may be done to a saga as it stands",
        "By action: whether its state allows it, the code and the sentence of the 409 where it does not, and the"
        " steps that it may be done to.",
        answers={200: schemas.ActionsView},
        problems=(404,),
    ),
)
async def actions(request: Request, caller: MayLook, id: str) -> Response:  # noqa: A002
    saga = await house_of(request).engine.load(saga_id(id), caller.sees)
    view: dict[str, Any] = {}
    for action, verdict in verdicts(saga.definition, saga.state, now_of(saga)).items():
        no = verdict.refusal
        view[action] = {
            "allowed": no is None,
            "code": None if no is None else no.code,
            "why": None if no is None else no.detail,
            "steps": verdict.steps,
        }
    return json_response(view, headers={"ETag": etag(saga)})


@router.post("/sagas/{id}/retry", **_action("Try again now what failed or waits for a retry", schemas.RetryRequest))
async def retry(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await read_reasoned(request, schemas.RetryRequest)
    saga = await _operator(request, caller).retry(
        saga_id(id),
        wanted.reason,
        step=wanted.step,
        new_input=_given(wanted, "input"),
        confirm_not_done=wanted.confirm_not_done,
    )
    return saga_response(saga)


@router.post("/sagas/{id}/skip", **_action("Go on without a step that cannot be done", schemas.SkipRequest))
async def skip(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await read_reasoned(request, schemas.SkipRequest)
    saga = await _operator(request, caller).skip(
        saga_id(id),
        wanted.reason,
        wanted.step,
        output=_given(wanted, "output"),
        confirm_not_done=wanted.confirm_not_done,
    )
    return saga_response(saga)


@router.post("/sagas/{id}/resolve", **_action("A failed compensation was settled by hand", schemas.ResolveRequest))
async def resolve(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await read_reasoned(request, schemas.ResolveRequest)
    return saga_response(await _operator(request, caller).resolve(saga_id(id), wanted.reason, wanted.step))


@router.post("/sagas/{id}/compensate", **_action("Stop a saga, and undo what was done", status=202))
async def compensate(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return saga_response(await _operator(request, caller).compensate(saga_id(id), reason), 202)


@router.post("/sagas/{id}/abandon", **_action("Stop a saga without undoing anything"))
async def abandon(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return saga_response(await _operator(request, caller).abandon(saga_id(id), reason))


@router.post("/sagas/{id}/pause", **_action("Hold a saga: nothing new is sent, answers under way are kept"))
async def pause(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return saga_response(await _operator(request, caller).pause(saga_id(id), reason))


@router.post("/sagas/{id}/resume", **_action("End an operator's pause"))
async def resume(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    return saga_response(await _operator(request, caller).resume(saga_id(id), reason))


@router.post("/sagas/{id}/extend", **_action("Move a saga's deadline to now + timeout", schemas.ExtendRequest))
async def extend(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await read_reasoned(request, schemas.ExtendRequest)
    return saga_response(await _operator(request, caller).extend(saga_id(id), wanted.reason, wanted.timeout))


@router.post(
    "/sagas/{id}/restart",
    **_action("A new saga in place of one that is at rest", schemas.RestartRequest, status=201),
)
async def restart(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await read_reasoned(request, schemas.RestartRequest)
    saga = await _operator(request, caller).restart(
        saga_id(id), wanted.reason, request.app.state.schemas, new_input=_given(wanted, "input")
    )
    return saga_response(saga, 201, {"Location": f"/sagas/{saga.id}"})


@router.post(
    "/bulk",
    **describe(
        "Do the same to many sagas",
        "`filter` has the fields of `GET /sagas`. The newest `limit` (at most 1000) of those that match.",
        body=schemas.BulkRequest,
        answers={200: schemas.BulkView},
        problems=(400, 413, 422),
        headers={"Location": "The job, to be read again; not of a dry run"},
    ),
)
async def bulk(request: Request, caller: MayOperate) -> Response:
    wanted = await read_reasoned(request, schemas.BulkRequest)
    done = await Operator(house_of(request), caller).bulk(
        wanted.action,
        body_filter(wanted.filter, caller.sees),
        wanted.limit,
        wanted.reason,
        dry_run=wanted.dry_run,
    )
    view = {"matched": done.matched, "done": done.done, "remaining": done.remaining, "failed": done.failed}
    headers = {} if done.job is None else {"Location": f"/admin/api/bulk/{done.job}"}
    return json_response(view, headers=headers)


@router.get(
    "/bulk",
    **describe(
        "What was done to many sagas at once, newest first",
        answers={200: schemas.BulkJobPage},
        problems=(422,),
        parameters=(LIMIT, CURSOR),
    ),
)
async def jobs(request: Request, caller: MayLook) -> Response:
    query = Query(request, PAGING)
    limit, place = query.limit(), query.place()
    query.check()
    found, following = await house_of(request).bulk_jobs.page(caller.sees, limit=limit, after=place)
    cursor = None if following is None else following.cursor()
    return page_response(query, [_job_view(job) for job in found], cursor)


@router.get(
    "/bulk/{id}",
    **describe("One of them", answers={200: schemas.BulkJobView}, problems=(404,)),
)
async def job(request: Request, caller: MayLook, id: str) -> Response:  # noqa: A002
    return json_response(_job_view(await bulk_job(house_of(request), caller, id)))


def _job_view(job: Mapping[str, Any]) -> dict[str, Any]:
    ended_at = job["ended_at"]
    return {
        **job,
        "begun_at": rfc3339(job["begun_at"]),
        "ended_at": None if ended_at is None else rfc3339(ended_at),
    }
