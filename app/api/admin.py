"""What operators do: look at what needs attention, decide what no rule can decide, and leave a trace of it.

Every action goes through `Engine.ask`: the machine says whether the saga's state allows it, and the audit row is
written with the transition.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access import Caller
from app.api import schemas
from app.api.dependencies import MayLook, MayOperate, checked, etag, house_of, if_match, read_json, saga_id
from app.api.filters import PAGING, SAGA_FILTERS, Query, body_filter, saga_filter, whole
from app.api.openapi import describe, parameter, several
from app.api.sagas import (
    CURSOR,
    FILTER_PARAMETERS,
    LIMIT,
    json_response,
    list_response,
    page_response,
    saga_response,
)
from app.api.submitting import check_input, find_definition, payload
from app.engine import Submission, not_allowed, now_of, summary
from app.errors import Problem
from app.house import House
from app.instants import rfc3339
from app.saga.actions import refuse_restart, verdicts
from app.saga.fields import shown
from app.saga.messages import (
    Abandon,
    Cancel,
    Extend,
    FromOperator,
    Pause,
    RecordType,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
)
from app.saga.state import SECOND, Micros
from app.store import notices
from app.store.audit import AuditEntry
from app.store.events import TRACKED
from app.store.letters import OPEN, STATUSES
from app.store.sagas import INPUT, Saga, input_of, output_of

BULK_AT_ONCE: Final = 16
BULK_MOST: Final = 1000
RESTART_KEYS: Final = 50

Wanted = TypeVar("Wanted", bound=schemas.Reason)
Message = Callable[[Micros, Saga], FromOperator]
Payloads = Callable[[Transition], Mapping[str, bytes]]

router = APIRouter(prefix="/admin/api", tags=["admin"])

ACTION_PROBLEMS: Final = (400, 404, 409, 412, 413, 422)
OF_SAGA: Final = parameter("saga_id", "query", "Of one saga", {"type": "string", "format": "uuid"})
IF_MATCH: Final = (parameter("If-Match", "header", "An `ETag`: 412 where the saga has moved on"),)


def _action(what: str, body: type[schemas.Body] = schemas.Reason, status: int = 200) -> dict[str, Any]:
    answers = {status: schemas.SagaView}
    return describe(what, body=body, answers=answers, problems=ACTION_PROBLEMS, parameters=IF_MATCH)


async def _read(request: Request, model: type[Wanted]) -> Wanted:
    """Problem 422 `reason-missing` before any other fault of the body."""
    body = await read_json(request, empty={})
    if isinstance(body, dict):
        reason = body.get("reason")
        if reason is None or (isinstance(reason, str) and not reason.strip()):
            detail = "Say why you do this: `reason` stands in the audit trail."
            raise Problem(422, "reason-missing", detail, errors=[("reason", "is missing")])
    return checked(model, body)


async def _ask(
    request: Request,
    caller: Caller,
    id: str,  # noqa: A002
    action: str,
    reason: str,
    message: Message,
    payloads: Payloads | None = None,
) -> Saga:
    return await house_of(request).engine.ask(
        saga_id(id),
        message,
        action=action,
        actor=caller.actor(reason),
        tenant=caller.sees,
        address=caller.address,
        if_match=if_match(request),
        payloads=payloads,
    )


def _position(saga: Saga, step: str) -> int:
    position = saga.definition.index.get(step)
    if position is None:
        names = ", ".join(plan.name for plan in saga.definition.steps)
        fault = ("step", f"{shown(step)} is not a step of this saga; its steps are {names}")
        raise Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=[fault])
    return position


# --- sagas ------------------------------------------------------------------------------------------------------


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
    wanted = await _read(request, schemas.RetryRequest)
    new_input = "input" in wanted.model_fields_set
    given = payload(house_of(request), wanted.input, "The input") if new_input else b""
    steps: list[str] = []

    def message(at: Micros, saga: Saga) -> Retry:
        steps[:] = [plan.name for plan in saga.definition.steps]
        step = None if wanted.step is None else _position(saga, wanted.step)
        return Retry(at, caller.actor(wanted.reason), new_input, wanted.confirm_not_done, step)

    def payloads(transition: Transition) -> Mapping[str, bytes]:
        # The record that begins a new key names the step that the input is for.
        renewed = (r for r in transition.records if r.type is RecordType.STEP_SCHEDULED and "key" in r.data)
        return {input_of(steps[record.step]): given for record in renewed if record.step is not None}

    kept = payloads if new_input else None
    return saga_response(await _ask(request, caller, id, "retry", wanted.reason, message, kept))


@router.post("/sagas/{id}/skip", **_action("Go on without a step that cannot be done", schemas.SkipRequest))
async def skip(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await _read(request, schemas.SkipRequest)
    has_output = "output" in wanted.model_fields_set
    output = payload(house_of(request), wanted.output, "The output") if has_output else b""

    def message(at: Micros, saga: Saga) -> Skip:
        return Skip(at, caller.actor(wanted.reason), _position(saga, wanted.step), wanted.confirm_not_done)

    def payloads(transition: Transition) -> Mapping[str, bytes]:
        skipped = any(record.type is RecordType.STEP_SKIPPED for record in transition.records)
        return {output_of(wanted.step): output} if skipped and has_output else {}

    return saga_response(await _ask(request, caller, id, "skip", wanted.reason, message, payloads))


@router.post("/sagas/{id}/resolve", **_action("A failed compensation was settled by hand", schemas.ResolveRequest))
async def resolve(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await _read(request, schemas.ResolveRequest)

    def message(at: Micros, saga: Saga) -> Resolve:
        return Resolve(at, caller.actor(wanted.reason), _position(saga, wanted.step))

    return saga_response(await _ask(request, caller, id, "resolve", wanted.reason, message))


@router.post("/sagas/{id}/compensate", **_action("Stop a saga, and undo what was done", status=202))
async def compensate(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    saga = await _ask(request, caller, id, "compensate", reason, lambda at, _: Cancel(at, caller.actor(reason)))
    return saga_response(saga, 202)


@router.post("/sagas/{id}/abandon", **_action("Stop a saga without undoing anything"))
async def abandon(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    return saga_response(
        await _ask(request, caller, id, "abandon", reason, lambda at, _: Abandon(at, caller.actor(reason)))
    )


@router.post("/sagas/{id}/pause", **_action("Hold a saga: nothing new is sent, answers under way are kept"))
async def pause(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    return saga_response(
        await _ask(request, caller, id, "pause", reason, lambda at, _: Pause(at, caller.actor(reason)))
    )


@router.post("/sagas/{id}/resume", **_action("End an operator's pause"))
async def resume(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    return saga_response(
        await _ask(request, caller, id, "resume", reason, lambda at, _: Resume(at, caller.actor(reason)))
    )


@router.post("/sagas/{id}/extend", **_action("Move a saga's deadline to now + timeout", schemas.ExtendRequest))
async def extend(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    wanted = await _read(request, schemas.ExtendRequest)

    def message(at: Micros, _: Saga) -> Extend:
        return Extend(at, caller.actor(wanted.reason), wanted.timeout)

    return saga_response(await _ask(request, caller, id, "extend", wanted.reason, message))


# --- restart ----------------------------------------------------------------------------------------------------


@router.post(
    "/sagas/{id}/restart",
    **_action("A new saga in place of one that is at rest", schemas.RestartRequest, status=201),
)
async def restart(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    """With the newest version of the definition, and the labels, timeout and `notify_url` of the old saga."""
    wanted = await _read(request, schemas.RestartRequest)
    house = house_of(request)
    old = await house.engine.load(saga_id(id), caller.sees)
    matches = if_match(request)
    if matches is not None and not matches(old):
        raise Problem(412, "saga-has-moved", f"Saga {old.id} has moved on since you looked at it; nothing was done.")
    if (refusal := refuse_restart(old.definition, old.state)) is not None:
        raise not_allowed(old, refusal)
    definition, version = await find_definition(house, old.definition.name, None)
    value = wanted.input if "input" in wanted.model_fields_set else old.payload(INPUT)
    check_input(request.app.state.schemas, definition, version, value)
    given = payload(house, value, "The input") if "input" in wanted.model_fields_set else old.payloads[INPUT]
    submission = Submission(
        tenant=old.tenant,
        key="",
        digest=b"",
        definition=definition,
        version=version,
        input=given,
        labels=old.labels,
        timeout_seconds=await _timeout_given(house, old),
        notify_url=old.notify_url,
        restarted_from=old.id,
    )
    saga = await _start_with_free_key(house, old, submission, caller, wanted.reason)
    return saga_response(saga, 201, {"Location": f"/sagas/{saga.id}"})


async def _start_with_free_key(house: House, old: Saga, submission: Submission, caller: Caller, reason: str) -> Saga:
    root = old.key if old.restarted_from is None else old.key.rpartition("~")[0]
    first = 1
    while True:
        keys = [f"{root}~{n}" for n in range(first, first + RESTART_KEYS)]
        taken = await house.listing.taken(old.tenant, keys)
        for key in keys:
            if key in taken:
                continue
            audit = AuditEntry(caller.name, "restart", reason, summary(old), {"restarted_as": key}, caller.address)
            # No request of a submitter has this digest, so the key of a restart is nobody's to replay.
            digest = secrets.token_bytes(32)
            try:
                saga, known = await house.engine.start(replace(submission, key=key, digest=digest, audit=audit))
            except Problem as problem:
                if problem.code != "idempotency-key-reused":
                    raise
                known = True
            if not known:
                return saga
        first += RESTART_KEYS


async def _timeout_given(house: House, old: Saga) -> float | None:
    """The timeout that the submitter asked for in place of the definition's."""
    created = await house.listing.history(old.id, old.tenant, limit=1)
    if not created:
        return None
    data = created[0]["data"]
    seconds: float = (data["deadline_at"] - data.get("start_at", created[0]["at"])) / SECOND
    return None if seconds == old.definition.timeout_seconds else seconds


# --- many at once -----------------------------------------------------------------------------------------------


@router.post(
    "/bulk",
    **describe(
        "Do the same to many sagas",
        "`filter` has the fields of `GET /sagas`. The newest `limit` (at most 1000) of those that match.",
        body=schemas.BulkRequest,
        answers={200: schemas.BulkView},
        problems=(400, 413, 422),
    ),
)
async def bulk(request: Request, caller: MayOperate) -> Response:
    wanted = await _read(request, schemas.BulkRequest)
    engine = house_of(request).engine
    ids, matched = await house_of(request).listing.ids(body_filter(wanted.filter, caller.sees), wanted.limit)
    failed: list[dict[str, str]] = []
    gate = asyncio.Semaphore(BULK_AT_ONCE)
    messages: dict[str, Message] = {
        "retry": lambda at, _: Retry(at, caller.actor(wanted.reason)),
        "compensate": lambda at, _: Cancel(at, caller.actor(wanted.reason)),
        "pause": lambda at, _: Pause(at, caller.actor(wanted.reason)),
    }

    async def one(each: str) -> None:
        async with gate:
            try:
                await engine.ask(
                    each,
                    messages[wanted.action],
                    action=wanted.action,
                    actor=caller.actor(wanted.reason),
                    tenant=caller.sees,
                    address=caller.address,
                )
            except Problem as problem:
                failed.append({"id": each, "code": problem.code})

    if wanted.dry_run:
        ids = []
    await asyncio.gather(*map(one, ids))
    done = len(ids) - len(failed)
    view = {"matched": matched, "done": done, "remaining": matched - done, "failed": failed}
    return json_response(view)


# --- dead letters -----------------------------------------------------------------------------------------------


def _letter_status(text: str) -> str:
    if text not in STATUSES:
        raise ValueError(f"must be one of {', '.join(STATUSES)}, not {shown(text)}")
    return text


def _letter_view(letter: Mapping[str, Any]) -> dict[str, Any]:
    return {**letter, "created_at": rfc3339(letter["created_at"])}


def _uuid(text: str) -> str:
    try:
        return saga_id(text)
    except Problem:
        raise ValueError(f"must be a UUID, not {shown(text)}") from None


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
    of_saga, limit, place = query.one("saga_id", _uuid), query.limit(), query.place()
    query.check()
    found, following = await house_of(request).letters.page(
        caller.sees, limit=limit, after=place, statuses=statuses, saga_id=of_saga
    )
    cursor = None if following is None else following.cursor()
    return page_response(query, [_letter_view(letter) for letter in found], cursor)


async def _open_letter(house: House, id: str, caller: Caller) -> dict[str, Any]:  # noqa: A002
    try:
        letter = await house.letters.get(_uuid(id), caller.sees)
    except ValueError:
        letter = None
    if letter is None:
        raise Problem(404, "letter-not-found", f"There is no dead letter {shown(id)}.")
    if letter["status"] != OPEN:
        raise _closed(letter["id"], letter["status"])
    return letter


def _closed(id: str, status: str) -> Problem:  # noqa: A002
    return Problem(409, "letter-closed", f"Dead letter {id} is {status}; only an open one can be acted on.")


LETTER_PROBLEMS: Final = (400, 404, 409, 413, 422)


@router.post(
    "/dead-letters/{id}/retry",
    **describe(
        "Try the operation again",
        "An event that could not be processed is processed again, one that could not be delivered is delivered again;"
        " the answer then is the letter.",
        body=schemas.Reason,
        answers={200: schemas.SagaOrLetter},
        problems=LETTER_PROBLEMS,
    ),
)
async def retry_letter(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    house = house_of(request)
    letter = await _open_letter(house, id, caller)
    if letter["saga_id"] is None:
        if letter["operation"] == TRACKED:
            await house.tracker.again(letter)
        return await _close_letter(house, letter, caller, "retried", reason)

    def message(at: Micros, saga: Saga) -> Retry:
        return Retry(at, caller.actor(reason), step=saga.definition.index[letter["step"]])

    return saga_response(await _ask(request, caller, letter["saga_id"], "retry", reason, message))


@router.post(
    "/dead-letters/{id}/discard",
    **describe(
        "Close a letter, and leave its saga as it is",
        "Of an event the answer is the letter.",
        body=schemas.Reason,
        answers={200: schemas.SagaOrLetter},
        problems=LETTER_PROBLEMS,
    ),
)
async def discard_letter(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    house = house_of(request)
    letter = await _open_letter(house, id, caller)
    return await _close_letter(house, letter, caller, "discarded", reason)


async def _close_letter(
    house: House, letter: dict[str, Any], caller: Caller, status: Literal["discarded", "retried"], reason: str
) -> Response:
    about = {"letter": letter["id"], "step": letter["step"], "operation": letter["operation"]}
    action = "discard" if status == "discarded" else "retry"
    entry = AuditEntry(
        caller.name, action, reason, {**about, "status": OPEN}, {**about, "status": status}, caller.address
    )
    if not await house.letters.close(letter["id"], caller.sees, status, entry):
        raise _closed(letter["id"], "closed")
    if letter["saga_id"] is None:
        return json_response(_letter_view({**letter, "status": status}))
    return saga_response(await house.engine.load(letter["saga_id"], caller.sees))


# --- notices ----------------------------------------------------------------------------------------------------


def _notice_status(text: str) -> str:
    if text not in notices.STATUSES:
        raise ValueError(f"must be one of {', '.join(notices.STATUSES)}, not {shown(text)}")
    return text


def _notice_view(notice: Mapping[str, Any]) -> dict[str, Any]:
    next_attempt_at = notice["next_attempt_at"]
    return {
        **notice,
        "next_attempt_at": None if next_attempt_at is None else rfc3339(next_attempt_at),
        "created_at": rfc3339(notice["created_at"]),
    }


@router.get(
    "/notices",
    **describe(
        "What a `notify_url` still has to be told, newest first",
        answers={200: schemas.NoticePage},
        problems=(422,),
        parameters=(
            parameter("status", "query", "Repeated, or by commas", several({"enum": list(notices.STATUSES)})),
            LIMIT,
            CURSOR,
        ),
    ),
)
async def list_notices(request: Request, caller: MayLook) -> Response:
    query = Query(request, ("status", *PAGING))
    statuses = query.many("status", _notice_status, commas=True)
    limit, place = query.limit(), query.place()
    query.check()
    found, following = await house_of(request).notices.page(caller.sees, limit=limit, after=place, statuses=statuses)
    cursor = None if following is None else following.cursor()
    return page_response(query, [_notice_view(notice) for notice in found], cursor)


NOTICE_PROBLEMS: Final = (400, 404, 413, 422)


@router.post(
    "/notices/{id}/retry",
    **describe(
        "Send a notice again now",
        "As if it had never been tried: its attempts, their distances and `SAGA_NOTIFY_FOR` count anew.",
        body=schemas.CancelRequest,
        body_required=False,
        answers={200: schemas.NoticeView},
        problems=NOTICE_PROBLEMS,
    ),
)
async def retry_notice(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = checked(schemas.CancelRequest, await read_json(request, empty={})).reason
    house = house_of(request)
    return _noticed(id, await house.notices.send_again(_notice_id(id), caller, reason))


@router.post(
    "/notices/{id}/discard",
    **describe(
        "Take a notice away untold",
        body=schemas.Reason,
        answers={200: schemas.NoticeView},
        problems=NOTICE_PROBLEMS,
    ),
)
async def discard_notice(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await _read(request, schemas.Reason)).reason
    house = house_of(request)
    return _noticed(id, await house.notices.discard(_notice_id(id), caller, reason))


def _notice_id(id: str) -> str:  # noqa: A002
    try:
        return _uuid(id)
    except ValueError:
        raise _no_notice(id) from None


def _noticed(id: str, notice: Mapping[str, Any] | None) -> Response:  # noqa: A002
    if notice is None:
        raise _no_notice(id)
    return json_response(_notice_view(notice))


def _no_notice(id: str) -> Problem:  # noqa: A002
    return Problem(404, "notice-not-found", f"There is no notice {shown(id)}: none was made, or it was taken.")


# --- the trace that is left -------------------------------------------------------------------------------------


@router.get(
    "/audit",
    **describe(
        "Who did what and why, newest first",
        answers={200: schemas.AuditPage},
        problems=(422,),
        parameters=(
            OF_SAGA,
            LIMIT,
            parameter("cursor", "query", "`next_cursor` of the page before", {"type": "string", "pattern": "^[0-9]+$"}),
        ),
    ),
)
async def audit(request: Request, caller: MayLook) -> Response:
    query = Query(request, ("saga_id", *PAGING))
    limit, before = query.limit(), query.one("cursor", whole)
    of_saga = query.one("saga_id", _uuid)
    query.check()
    found, number = await house_of(request).letters.audit_trail(
        caller.sees, limit=limit, before=before, saga_id=of_saga
    )
    cursor = None if number is None else str(number)
    return page_response(query, [{**line, "at": rfc3339(line["at"])} for line in found], cursor)
