"""Thousands of requests made of the OpenAPI document, with a key and without: no 5xx, and no answer that it lacks.

The document is the one of the application, so a new route is tried without being named here. The API is a process of
its own on a database with sagas in many states; no worker runs, so nobody is called, whatever is registered. Requests
that would wait, and streams, are not made.

SAGA_SEED=1 SCHEMATHESIS_CALLS=20000 pytest tests/security/test_schemathesis.py    # others, and more of them
"""

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.openapi import document
from app.callbacks import AttemptName, make_token
from app.house import open_house
from app.main import ROUTERS
from app.settings import Settings
from tests.api.conftest import ONCE, PROBLEM, Client, World
from tests.conftest import KEY, Servers
from tests.participant import ACCEPTED, Participant, answers
from tests.running import running
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = int(os.environ.get("SAGA_SEED", "5"))
CALLS = int(os.environ.get("SCHEMATHESIS_CALLS", "4000"))
SECRET = "a secret for tests"
NO_KEYS = (None, "Bearer wrong.key", "Basic dGVzdC5rZXk=", KEY)
CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
QUIET = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
    verbosity=Verbosity.quiet,
)


@dataclass
class Known:
    """What there is in the database, by the word that names it in paths and bodies."""

    base: str
    sagas: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def in_path(self, path: str, name: str) -> list[str]:
        if name == "id":
            kinds = {"/sagas/": self.sagas, "/dead-letters/": self.letters, "/notices/": self.notices}
            return next((ids for kind, ids in kinds.items() if kind in path), [])
        if name == "name":
            return ["shop", "ledger"] if path.startswith("/services") else ["order", "refund", "checked", "events"]
        return {"token": self.tokens, "asset": ["start.js", "swagger-ui.css", "swagger-ui-bundle.js"]}.get(name, [])


@pytest.fixture(scope="module")
def known(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    with socket.socket() as free, servers.database() as url:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        ours = Settings(
            database_url=url, redis_url=servers.valkey.url, bootstrap_api_key=KEY, secret_key=SECRET, port=port
        )
        directory = tmp_path_factory.mktemp("schemathesis")
        with running("api", ours, directory) as process:
            known = Known(f"http://127.0.0.1:{port}")
            asyncio.run(_fill(known, ours))
            yield known
            assert "Traceback" not in process.log, process.log


async def _fill(known: Known, ours: Settings) -> None:
    async with (
        aiohttp.ClientSession() as session,
        Participant.serve() as participant,
        open_house(ours, worker=True) as worker,
    ):
        api = Client(session, known.base)

        async def lives() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return (await api.get("/readyz")).status == 200
            return False

        await until(lives, 60, "the API")
        world = World(api, worker, participant)
        for name in ("shop", "ledger"):
            await api.put(f"/services/{name}", {"url": participant.url})
        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
        await world.define({"name": "refund", "on_exhausted": "pause", "retry": ONCE}, name="refund")
        await world.define({"name": "check"}, name="checked", input_schema={"type": "object", "required": ["sku"]})
        steps = [{"name": "Pay", "service": "shop", "trigger": "Placed", "succeeded": "Paid", "failed": "NotPaid"}]
        events = {"name": "events", "type": "choreography", "started_by": "Placed", "correlation": "data.id"}
        await api.put("/definitions/events", {**events, "steps": [{**steps[0], "compensated": "none"}]})
        notified = {"notify_url": "http://127.0.0.1:1/notified"}
        found = [await world.ran(**notified), await world.submit(labels={"a": "b"})]  # COMPLETED, EXECUTING
        found.append(await world.submit(start_at="2200-01-01T00:00:00Z"))  # CREATED
        paused = await world.submit()
        await world.act(paused["id"], "pause")
        participant.on("reserve", ACCEPTED)
        waiting = await world.ran()
        participant.always("charge", answers(422))
        found += [paused, waiting, await world.ran()]  # FAILED
        participant.always("reserve", answers(400), operation="compensation")
        found += [await world.ran(**notified) for _ in range(3)]  # COMPENSATION_FAILED
        participant.always("refund", answers(500))
        found += [await world.ran("refund") for _ in range(2)]  # held
        known.sagas = [saga["id"] for saga in found]
        known.letters = [each["id"] for each in (await api.get("/admin/api/dead-letters")).json["items"]]
        known.notices = [each["id"] for each in (await api.get("/admin/api/notices")).json["items"]]
        name = AttemptName(waiting["id"], "reserve", "action", 1)
        known.tokens = [make_token(SECRET, name), make_token(SECRET, AttemptName(paused["id"], "charge", "action", 1))]
        states = {(await api.get(f"/sagas/{each}")).json["state"] for each in known.sagas}
        assert states == {"CREATED", "EXECUTING", "COMPLETED", "FAILED", "COMPENSATION_FAILED"}
        assert known.letters
        assert known.notices


# --- what is sent -----------------------------------------------------------------------------------------------


def confine(case: Case, known: Known, chance: random.Random) -> None:
    """Gives the request names that exist, mostly, and addresses of this machine; and lets it wait for nothing."""
    path = case.operation.path
    for name in case.path_parameters or {}:
        if (there := known.in_path(path, name)) and chance.random() < 0.7:
            case.path_parameters[name] = chance.choice(there)
    for name, value in list((case.headers or {}).items()):
        if "wait" in str(value).lower() or "event-stream" in str(value).lower():
            del case.headers[name]
    if case.operation.label == "POST /sagas" and chance.random() < 0.7:
        case.headers["Idempotency-Key"] = f"key-{chance.randrange(10**9)}"
    if isinstance(case.body, dict):
        case.body = {**case.body}
        case.body.pop("notify_url", None)
        for name in ("version", "start_at", "idempotency_key"):  # with which little would be right
            if chance.random() < 0.7:
                case.body.pop(name, None)
        if path.startswith("/services") and isinstance(case.body.get("url"), str):
            case.body["url"] = chance.choice(
                ["http://127.0.0.1:1", "http://127.0.0.1:1/x", "http://[::1]:1", "ftp://", ""]
            )
        for name, words in (("saga", ["order", "refund", "checked"]), ("step", ["reserve", "charge", "refund"])):
            if isinstance(case.body.get(name), str) and chance.random() < 0.7:
                case.body[name] = chance.choice(words)
        if isinstance(case.body.get("steps"), list) and chance.random() < 0.7:
            steps = [step for step in case.body["steps"] if isinstance(step, dict)]
            case.body["steps"] = [{**step, "service": "shop", "compensation": "none"} for step in steps]
        if isinstance(case.body.get("reason"), str) and chance.random() < 0.7:
            case.body["reason"] = "a test"


@dataclass
class Tried:
    """What came of many requests."""

    session: requests.Session
    statuses: Counter[str] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    wrong: dict[str, str] = field(default_factory=dict)

    def send(self, case: Case, base: str, credential: str | None) -> requests.Response:
        """Holds the answer against the document."""
        given = case.as_transport_kwargs(base_url=base)
        # Schemathesis leaves headers out and makes them up; what is shown here is not left to chance.
        given["headers"].pop("Authorization", None)
        if credential is not None:
            given["headers"]["Authorization"] = credential
        response = self.session.request(**{**given, "timeout": 30, "allow_redirects": False})
        self.operations.add(case.operation.label)
        if response.status_code >= 500:
            self.add(case, f"{response.status_code}: {response.text[:300]}")
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self.add(case, str(failure))
        except Failure as failure:
            self.add(case, str(failure))
        return response

    def add(self, case: Case, fault: str) -> None:
        self.wrong.setdefault(f"{case.operation.label}: {fault[:600]}", case.as_curl_command())

    def told(self) -> str:
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        calls = f"{self.statuses.total():,} calls of {len(self.operations)} operations, seed {SEED}"
        return f"{calls}; answers by status: {statuses}"

    def check(self) -> None:
        assert not self.wrong, "\n".join(f"{fault}\n    {command}" for fault, command in self.wrong.items())


@pytest.fixture
def tried() -> Iterator[Tried]:
    with requests.Session() as session:
        session.trust_env = False
        yield Tried(session)


def operations() -> list[Any]:
    schema = schemathesis.openapi.from_dict(document(ROUTERS, "1"))
    return [found.ok() for found in schema.get_all_operations()]


def is_open(case: Case) -> bool:
    return case.operation.definition.raw.get("security") == []


def test_requests_as_the_document_has_them_and_others(
    known: Known, tried: Tried, record_property: Callable[[str, object], None]
) -> None:
    """Each is sent without a key first, or with one that is none, and then with one."""
    chance, found = random.Random(SEED), operations()
    each = max(1, CALLS // 2 // 2 // len(found))
    for operation in found:
        for mode in GenerationMode:

            @seed(SEED)
            @settings(QUIET, max_examples=each)
            @given(operation.as_strategy(generation_mode=mode))
            def run(case: Case) -> None:
                confine(case, known, chance)
                if not is_open(case):
                    answer = tried.send(case, known.base, chance.choice(NO_KEYS))
                    tried.statuses["401 without a key"] += 1
                    if answer.status_code != 401:
                        tried.add(case, f"{answer.status_code} without a key")
                answer = tried.send(case, known.base, f"Bearer {KEY}")
                tried.statuses[str(answer.status_code)] += 1

            # Of what takes no parameters there is nothing that differs from the document.
            with contextlib.suppress(HypothesisException, pytest.skip.Exception):
                run()
    record_property("told", tried.told())
    tried.check()
    assert len(tried.operations) == len(found)
    assert {"200", "201", "202", "400", "404", "409", "412", "422"} <= tried.statuses.keys()
    assert "401" not in tried.statuses


def test_requests_that_follow_from_answers(
    known: Known, tried: Tried, record_property: Callable[[str, object], None]
) -> None:
    """By the links of the document: what was just started, registered or listed is read, changed and stopped."""
    chance = random.Random(SEED)
    by_id = {operation.definition.raw["operationId"]: operation for operation in operations()}
    linking = {name: links for name, operation in by_id.items() if (links := links_of(operation))}
    for name, links in linking.items():
        following = st.tuples(*(by_id[each].as_strategy() for each in links))

        @seed(SEED)
        @settings(QUIET, max_examples=max(1, CALLS // 4 // sum(map(len, linking.values()))))
        @given(by_id[name].as_strategy(), following)
        def run(case: Case, cases: tuple[Case, ...]) -> None:
            confine(case, known, chance)
            answer = tried.send(case, known.base, f"Bearer {KEY}")
            tried.statuses[str(answer.status_code)] += 1
            for each, parameters in zip(cases, links.values(), strict=True):  # noqa: B023 - run at once
                confine(each, known, chance)
                found = {name: pointed(answer, where) for name, where in parameters.items()}
                if answer.status_code < 300 and None not in found.values():
                    for name, value in found.items():
                        place = each.path_parameters if f"{{{name}}}" in each.operation.path else each.query
                        place[name] = value
                    followed = tried.send(each, known.base, f"Bearer {KEY}")
                    tried.statuses[f"{followed.status_code} by link"] += 1
                    if followed.status_code == 404:
                        tried.add(each, "the link leads nowhere")

        run()
    record_property("told", tried.told())
    tried.check()
    assert {"200 by link", "202 by link"} <= tried.statuses.keys()
    assert linking.keys() >= {"post_sagas", "get_sagas", "put_definitions_name", "put_services_name"}


def links_of(operation: Any) -> dict[str, dict[str, str]]:
    """The parameters that its answers fill in, by the operation that they lead to."""
    answers = operation.definition.raw["responses"].values()
    return {name: link["parameters"] for answer in answers for name, link in answer.get("links", {}).items()}


def pointed(answer: requests.Response, expression: str) -> Any:
    """What `$response.body#/...` points at; None where there is nothing."""
    try:
        found = answer.json()
        for step in expression.removeprefix("$response.body#/").split("/"):
            found = found[int(step)] if isinstance(found, list) else found[step]
    except (ValueError, LookupError, TypeError):
        return None
    return found


def test_other_methods(known: Known, tried: Tried) -> None:
    wanted = {"get", "put", "post", "delete", "patch", "options", "trace", "propfind"}
    with_key = {"Authorization": f"Bearer {KEY}"}
    for path, methods in document(ROUTERS, "1")["paths"].items():
        for method in sorted(wanted - methods.keys()):
            address = known.base + path.replace("{", "").replace("}", "")
            response = tried.session.request(method, address, headers=with_key, timeout=30)
            if path != "/definitions/validate" or method not in {"get", "put"}:  # the definition of that name
                assert response.status_code == 405, (method, path, response.text)
                assert response.headers["Allow"]
            assert response.headers["Content-Type"] == PROBLEM, (method, path)
