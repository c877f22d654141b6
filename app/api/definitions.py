"""Definitions: what can be run."""

import asyncio
from collections.abc import Collection
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import diagrams, schemas
from app.api.dependencies import MayDefine, MayRead, house_of, read_body
from app.api.openapi import describe, parameter
from app.api.sagas import json_response
from app.errors import Problem
from app.filters import Query, whole
from app.instants import rfc3339
from app.registration import check_definition
from app.saga.definition import Definition, DefinitionInvalid, to_document
from app.saga.fields import Fault, shown
from app.saga.plan import plan
from app.saga.yaml12 import YamlInvalid, load_yaml
from app.settings import Settings
from app.store.audit import AuditEntry
from app.store.database import to_micros
from app.submitting import find_definition

BODY_TYPES: Final = ("application/yaml", "application/json")

router = APIRouter(tags=["definitions"])


async def _checked(request: Request, name: str | None = None) -> Definition:
    """The definition in the body. Problem 400 `body-not-yaml`, 422 `definition-invalid` with every fault."""
    house, reading = house_of(request), request.app.state.reading
    body = await read_body(request, house.settings.max_definition_bytes)
    services = await house.services.read()
    # In a thread: the YAML reader is slow, and a long definition must not hold up the others. And one at a time:
    # seconds of several together would leave the others too little.
    async with reading:
        return await asyncio.to_thread(_read, body, services.keys(), name, house.settings)


def _read(body: bytes, services: Collection[str], name: str | None, settings: Settings) -> Definition:
    if not body.strip():
        raise Problem(400, "body-not-yaml", "The body is empty; it has to be a definition in YAML or JSON.")
    try:
        document = load_yaml(body, settings.max_depth)
    except YamlInvalid as error:
        detail = f"The body is neither YAML nor JSON: {error.message}."
        raise Problem(400, "body-not-yaml", detail, errors=[("", error.message)]) from None
    faults: list[Fault] = []
    if name is not None and isinstance(document, dict) and document.get("name", name) != name:
        faults.append(Fault("name", f"is not the name in the address, {shown(name)}"))
    try:
        definition = check_definition(document, services, max_steps=settings.max_steps)
    except DefinitionInvalid as error:
        faults += error.errors
    if faults:
        raise Problem(422, "definition-invalid", "The definition is refused as a whole: see `errors`.", errors=faults)
    return definition


@router.get(
    "/definitions",
    **describe("All definitions, by name", answers={200: schemas.DefinitionList}),
)
async def list_definitions(request: Request, _: MayRead) -> Response:
    found = await house_of(request).definitions.names()
    items = [
        {"name": each["name"], "version": each["version"], "created_at": rfc3339(to_micros(each["created_at"]))}
        for each in found
    ]
    return json_response({"items": items})


VERSION: Final = parameter("version", "query", "The newest where it is not given", {"type": "integer", "minimum": 1})


async def _wanted(request: Request, name: str) -> tuple[Definition, int]:
    query = Query(request, ("version",))
    version = query.one("version", whole)
    query.check()
    return await find_definition(house_of(request), name, version)


@router.get(
    "/definitions/{name}",
    **describe("One definition", answers={200: schemas.DefinitionView}, problems=(404, 422), parameters=(VERSION,)),
)
async def show(request: Request, _: MayRead, name: str) -> Response:
    definition, version = await _wanted(request, name)
    versions = [
        {"version": each["version"], "created_at": rfc3339(to_micros(each["created_at"]))}
        for each in await house_of(request).definitions.versions(name)
    ]
    made = next(each["created_at"] for each in versions if each["version"] == version)
    view = {
        "name": name,
        "version": version,
        "created_at": made,
        "definition": to_document(definition),
        "versions": versions,
    }
    return json_response(view)


@router.put(
    "/definitions/{name}",
    **describe(
        "Register a definition",
        "YAML or JSON. Changed content makes the next version (201); the same content changes nothing (200).",
        body=schemas.DefinitionRequest,
        body_types=BODY_TYPES,
        answers={200: schemas.RegisteredView, 201: schemas.RegisteredView},
        problems=(400, 413, 422),
        headers={"Location": "Where this version is"},
        links={
            "get_definitions_name": {"name": "$response.body#/name", "version": "$response.body#/version"},
            "get_definitions_name_diagram": {"name": "$response.body#/name"},
        },
    ),
)
async def put(request: Request, caller: MayDefine, name: str) -> Response:
    definition = await _checked(request, name)
    audit = AuditEntry(caller.name, "put-definition", None, None, None, caller.address, f"definition/{name}")
    version, created = await house_of(request).definitions.register(definition, audit, caller.tenant)
    view = {"name": name, "version": version, "created": created, "definition": to_document(definition)}
    return json_response(view, 201 if created else 200, {"Location": f"/definitions/{name}?version={version}"})


@router.post(
    "/definitions/validate",
    **describe(
        "Check a definition without registering it, and see what it would do",
        body=schemas.DefinitionRequest,
        body_types=BODY_TYPES,
        answers={200: schemas.ValidView},
        problems=(400, 413, 422),
    ),
)
async def validate(request: Request, _: MayRead) -> Response:
    definition = await _checked(request)
    return json_response({"valid": True, "plan": plan(definition)})


@router.get(
    "/definitions/{name}/diagram",
    **describe(
        "A definition as a picture: Mermaid, or SVG",
        answers={200: diagrams.MERMAID},
        problems=(404, 406, 422),
        parameters=(VERSION,),
        also=diagrams.ALSO,
    ),
)
async def diagram(request: Request, _: MayRead, name: str) -> Response:
    definition, _version = await _wanted(request, name)
    return await diagrams.diagram_response(request, definition)
