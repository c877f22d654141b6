"""Services: who takes part. Their secrets and the values of their headers never leave."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.access import Caller
from app.api import schemas
from app.api.dependencies import MayDefine, MayOperate, MayRead, checked, house_of, read_json, read_reasoned
from app.api.openapi import describe
from app.api.sagas import json_response
from app.errors import Problem, refuse_tenants
from app.operating import PAUSES, Operator
from app.registration import ServiceInvalid, check_service
from app.store.audit import AuditEntry
from app.store.services import not_found, without_secrets

router = APIRouter(tags=["services"])


@router.get("/services", **describe("All services, by name", answers={200: schemas.ServiceList}))
async def list_services(request: Request, _: MayRead) -> Response:
    found = await house_of(request).services.read()
    return json_response({"items": [without_secrets(service) for service in found.values()]})


@router.get("/services/{name}", **describe("One service", answers={200: schemas.ServiceView}, problems=(404,)))
async def show(request: Request, _: MayRead, name: str) -> Response:
    found = (await house_of(request).services.read()).get(name)
    if found is None:
        raise not_found(name)
    return json_response(without_secrets(found))


@router.put(
    "/services/{name}",
    **describe(
        "Register a service, or change it as a whole",
        body=schemas.ServiceRequest,
        answers={200: schemas.ServiceView, 201: schemas.ServiceView},
        problems=(400, 413, 422),
        headers={"Location": "Where the service is"},
        links={"get_services_name": {"name": "$response.body#/name"}},
    ),
)
async def put(request: Request, caller: MayDefine, name: str) -> Response:
    body = await read_json(request)
    if not isinstance(body, dict):
        checked(schemas.ServiceRequest, body)
    try:
        service = check_service(name, body, from_file=False)
    except ServiceInvalid as error:
        detail = "The service is not as it should be: see `errors`."
        raise Problem(422, "service-invalid", detail, errors=error.errors) from None
    audit = AuditEntry(caller.name, "put-service", None, None, None, caller.address, f"service/{name}")
    service, created = await house_of(request).services.put(service, audit, caller.tenant)
    return json_response(without_secrets(service), 201 if created else 200, {"Location": f"/services/{name}"})


@router.post(
    "/admin/api/services/{name}/pause",
    tags=["admin"],
    **describe(
        "Send nothing new to a service, in any saga, until it is resumed",
        "What is under way goes on to its end, and answers are kept. Steps and compensations wait; the timeouts of"
        " sagas go on. Holds in every process after three seconds.",
        body=schemas.Reason,
        answers={200: schemas.ServiceView},
        problems=(400, 404, 409, 413, 422),
    ),
)
async def pause(request: Request, caller: MayOperate, name: str) -> Response:
    reason = await _reason(request, caller)
    return json_response(without_secrets(await Operator(house_of(request), caller).pause_service(name, reason)))


@router.post(
    "/admin/api/services/{name}/resume",
    tags=["admin"],
    **describe(
        "Send again what a paused service is to get",
        body=schemas.Reason,
        answers={200: schemas.ServiceView},
        problems=(400, 404, 409, 413, 422),
    ),
)
async def resume(request: Request, caller: MayOperate, name: str) -> Response:
    reason = await _reason(request, caller)
    return json_response(without_secrets(await Operator(house_of(request), caller).resume_service(name, reason)))


async def _reason(request: Request, caller: Caller) -> str:
    """Who may not pause is told so, whatever the body is."""
    refuse_tenants(caller, PAUSES)
    return (await read_reasoned(request, schemas.Reason)).reason
