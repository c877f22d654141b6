"""The OpenAPI document, made of what each route says of itself with `describe`.

FastAPI's own generator would describe its default errors, which never occur here; so the document is put together
here, from the same models that check the bodies.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api import schemas
from app.api.problems import MEDIA_TYPE

_KEY: Final = "x-saga"
_REF: Final = "#/components/schemas/{model}"

DESCRIPTION: Final = (
    "Runs business processes that cross services: every step is done, or every done step is undone, or a person is"
    " told what is left.\n\nEvery error is `application/problem+json` (RFC 9457) with a stable `code`. JSON bodies are"
    " read as JSON whatever their Content-Type says. Times are RFC 3339 in UTC.\n\nWhat is no HTTP is answered 400,"
    " a head that is too large with 431, one that does not come to its end with 408, whatever it asks for."
)

_OF_A_BODY: Final = (400, 408, 413, 415)
_UUIDS: Final = ("sagas", "dead-letters", "notices")
_PATH_PARAMETERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "name": ("", {"type": "string", "minLength": 1, "maxLength": 128, "examples": ["order"]}),
    "token": ("As the participant was given it", {"type": "string", "minLength": 1, "maxLength": 1000}),
    "asset": ("", {"type": "string", "examples": ["start.js"]}),
}
_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "RateLimit-Policy": {
        "description": "How many requests the key may make in how many seconds (draft-ietf-httpapi-ratelimit-headers)",
        "schema": {"type": "string", "examples": ['"default";q=300000;w=60']},
    },
    "RateLimit": {
        "description": "What is left of them, and for how many seconds; left out while there is no limit",
        "schema": {"type": "string", "examples": ['"default";r=299871;t=23']},
    },
    "Retry-After": {"description": "Seconds", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string", "examples": ['Bearer realm="saga"']}},
}
_HEADERS_OF: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    429: ("RateLimit-Policy", "RateLimit", "Retry-After"),
    503: ("Retry-After",),
}


@dataclass(frozen=True)
class Operation:
    summary: str
    description: str
    body: type[BaseModel] | None
    body_types: tuple[str, ...]
    body_required: bool
    answers: Mapping[int, type[BaseModel] | str | None]
    problems: tuple[int, ...]
    parameters: tuple[dict[str, Any], ...]
    also: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    is_open: bool = False


def describe(
    summary: str,
    description: str = "",
    *,
    body: type[BaseModel] | None = None,
    body_types: tuple[str, ...] = ("application/json",),
    body_required: bool = True,
    answers: Mapping[int, type[BaseModel] | str | None],
    problems: tuple[int, ...] = (),
    parameters: tuple[dict[str, Any], ...] = (),
    also: Mapping[int, Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    links: Mapping[str, Mapping[str, str]] | None = None,
    is_open: bool = False,
) -> dict[str, Any]:
    """Keywords for a route's decorator.

    `answers`: a model, or a media type of a text (or of some object of JSON), or None for no content. `problems`:
    statuses of errors beside those that every route has, and every route with a body. `also`: further media types of an
    answer. `headers`: what the answers carry besides. `links`: operations that an answer leads to, and how it fills in
    their parameters. `is_open`: needs no key.
    """
    told = Operation(
        summary=summary,
        description=description,
        body=body,
        body_types=body_types,
        body_required=body_required,
        answers=answers,
        problems=problems,
        parameters=parameters,
        also=also or {},
        headers=headers or {},
        links=links or {},
        is_open=is_open,
    )
    return {"openapi_extra": {_KEY: told}, "response_model": None, "include_in_schema": False}


def parameter(
    name: str, place: str, description: str, schema: Mapping[str, Any] | None = None, *, required: bool = False
) -> dict[str, Any]:
    """`schema`: a text where it is not given."""
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def several(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Of a query parameter that may be given more than once."""
    return {"type": "array", "items": schema}


def path_parameter(path: str, name: str) -> dict[str, Any]:
    about, schema = _PATH_PARAMETERS.get(name, ("", {"type": "string", "minLength": 1}))
    if name == "id" and path.partition("/{id}")[0].rpartition("/")[2] in _UUIDS:
        schema = {"type": "string", "format": "uuid"}
    return parameter(name, "path", about, schema, required=True)


def document(routers: Iterable[APIRouter], version: str) -> dict[str, Any]:
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    models: dict[str, type[BaseModel]] = {schemas.ProblemView.__name__: schemas.ProblemView}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        told: Operation = (route.openapi_extra or {})[_KEY]
        for model in (told.body, *told.answers.values()):
            if isinstance(model, type):
                models[model.__name__] = model
        for method in sorted(route.methods or ()):
            paths.setdefault(route.path, {})[method.lower()] = _operation(route, method, told)
    _, made = models_json_schema(
        [(model, "validation") for model in models.values()], ref_template=_REF.format(model="{model}")
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Saga orchestrator", "version": version, "description": DESCRIPTION},
        "security": [{"key": []}, {"session": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": made["$defs"],
            "headers": dict(_HEADERS),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, `id.secret` or the bootstrap key",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "saga_session",
                    "description": (
                        "Of a user who has logged in at /admin/login; over https `__Host-saga_session`. A method other"
                        " than GET also needs the header `X-CSRF-Token`, as `GET /admin/api/me` tells it"
                    ),
                },
            },
        },
    }


def _operation(route: APIRoute, method: str, told: Operation) -> dict[str, Any]:
    path_parameters = [path_parameter(route.path, name) for name in re.findall(r"\{(\w+)\}", route.path)]
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{re.sub(r'[^a-z0-9]+', '_', route.path.lower()).strip('_')}",
        "summary": told.summary,
        "tags": list(route.tags),
        "responses": {},
    }
    if told.description:
        operation["description"] = told.description
    if path_parameters or told.parameters:
        operation["parameters"] = [*path_parameters, *told.parameters]
    if _has_body(told):
        schema = {} if told.body is None else _ref(told.body)
        operation["requestBody"] = {
            "required": told.body_required,
            "content": {media_type: {"schema": schema} for media_type in told.body_types},
        }
    if told.is_open:
        operation["security"] = []
    for status, model in told.answers.items():
        answer = _answer(status, model, told.also.get(status, {}))
        if told.headers:
            answer["headers"] = {
                name: {"description": about, "schema": {"type": "string"}} for name, about in told.headers.items()
            }
        if not told.is_open:
            answer["headers"] = {**answer.get("headers", {}), **_header_refs(("RateLimit-Policy", "RateLimit"))}
        if told.links:
            answer["links"] = {
                name: {"operationId": name, "parameters": dict(parameters)} for name, parameters in told.links.items()
            }
        operation["responses"][str(status)] = answer
    for status in sorted({*told.problems, *_common(told)}):
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": _ref(schemas.ProblemView)}},
        }
        if status in _HEADERS_OF:
            operation["responses"][str(status)]["headers"] = _header_refs(_HEADERS_OF[status])
    return operation


def _has_body(told: Operation) -> bool:
    return told.body is not None or told.body_types != ("application/json",)


def _header_refs(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _common(told: Operation) -> tuple[int, ...]:
    common = (500, 503) if told.is_open else (401, 403, 429, 500, 503)
    return (*common, *_OF_A_BODY) if _has_body(told) else common


def _answer(status: int, model: type[BaseModel] | str | None, also: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(model, str):
        kind = "object" if model == "application/json" else "string"
        answer["content"] = {model: {"schema": {"type": kind}}}
    elif model is not None:
        answer["content"] = {"application/json": {"schema": _ref(model)}}
    if also:
        answer.setdefault("content", {}).update(also)
    return answer


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
