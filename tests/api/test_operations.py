"""Health, metrics, the description of the API, and errors that no route makes."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api import operations
from app.api.openapi import document
from app.main import ROUTERS
from app.settings import Settings
from app.store.schema import known_revisions
from tests.api.conftest import ONCE, PROBLEM, Client, World, serve
from tests.conftest import KEY, Servers
from tests.participant import ACCEPTED, answers
from workers import tasks

OPEN = ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js")


class TestKeys:
    async def test_open_paths_need_none(self, api: Client) -> None:
        for path in OPEN:
            assert (await api.get(path, key=None)).status == 200, path
        assert (await api.post("/callbacks/x", {}, key=None)).status == 404

    async def test_everything_else_does(self, api: Client) -> None:
        for method, path in protected():
            for headers in (
                {"key": None},
                {"key": "wrong"},
                {"key": None, "Authorization": "Basic dGVzdC5rZXk="},
                {"key": None, "Authorization": "Bearer "},
                {"key": None, "Authorization": KEY},
                {"key": KEY + " "[:0] + "x"},
                {"key": "k\u00e9y"},
            ):
                answer = await api(method, path, **headers)
                assert (answer.status, answer.code) == (401, "unauthorized"), (method, path)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_the_scheme_may_be_written_in_any_case(self, api: Client) -> None:
        assert (await api.get("/sagas", key=None, Authorization=f"bearer  {KEY}")).status == 200

    @pytest.mark.parametrize("key", [None, ""])
    async def test_without_any_key_nothing_is_open_and_the_answer_says_why(
        self, settings: Settings, key: str | None
    ) -> None:
        async with serve(Settings(**{**settings.model_dump(), "bootstrap_api_key": key})) as (api, _):
            for given in (None, "x"):
                answer = await api.get("/sagas", key=given)
                assert answer.status == 401
                assert "SAGA_BOOTSTRAP_API_KEY" in answer.json["detail"]


def protected() -> list[tuple[str, str]]:
    paths: dict[str, Any] = document(ROUTERS, "1")["paths"]
    return [
        (method.upper(), re.sub(r"\{\w+\}", "x", path))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation.get("security") != []
    ]


class TestErrors:
    async def test_unknown_routes_and_methods(self, api: Client) -> None:
        for path in ("/", "/nothing", "/sagas/", "/sagas/x/y/z", "/admin/api", "/docs/none.js", "/docs/..%2f..%2fx"):
            answer = await api.get(path)
            assert (answer.status, answer.code) == (404, "not-found"), path
        for method, path in (("DELETE", "/sagas"), ("PATCH", "/sagas/x"), ("GET", "/definitions/validate/x")):
            answer = await api(method, path)
            assert answer.code in {"method-not-allowed", "not-found"}
        answer = await api("DELETE", "/sagas/x")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")

    async def test_a_mistake_of_ours_is_a_problem_and_stands_in_the_log(
        self, api: Client, app_state: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        app_state.house.listing.sagas = None
        answer = await api.get("/sagas")
        assert (answer.status, answer.code) == (500, "internal-error")
        assert "TypeError" in caplog.text
        assert "NoneType" not in answer.json["detail"]

    async def test_a_database_that_is_away_is_said_with_when_to_come_back(self, settings: Settings) -> None:
        away = settings.model_dump() | {"database_url": "postgresql://saga@127.0.0.1:1/saga"}
        async with serve(Settings(**away)) as (api, _):
            for method, path in (("GET", "/sagas"), ("GET", "/definitions"), ("GET", "/services")):
                answer = await api(method, path)
                assert (answer.status, answer.code) == (503, "database-unavailable")
                assert int(answer.headers["Retry-After"]) > 0
            answer = await api.post("/sagas", {"saga": "order", "input": 1}, Idempotency_Key="k")
            assert (answer.status, answer.code) == (503, "database-unavailable")
            ready = await api.get("/readyz")
            assert (ready.status, ready.code) == (503, "not-ready")
            assert "does not answer" in ready.json["detail"]
            assert (await api.get("/livez")).status == 200
            metrics = (await api.get("/metrics")).content.decode()
            assert "saga_database_up 0.0" in metrics
            assert "saga_queue_depth" in metrics

    async def test_tables_that_are_missing_are_said(self, servers: Servers, settings: Settings) -> None:
        with servers.database(template=None) as url:
            async with serve(Settings(**settings.model_dump() | {"database_url": url})) as (api, _):
                ready = await api.get("/readyz")
                assert (ready.status, ready.code) == (503, "not-ready")
                assert "saga migrate" in ready.json["detail"]
                answer = await api.get("/sagas")
                assert (answer.status, answer.code) == (503, "database-not-migrated")


class TestHealth:
    async def test_ready(self, api: Client) -> None:
        assert (await api.get("/livez")).json == {"status": "ok"}
        ready = await api.get("/readyz")
        assert (ready.status, ready.json) == (200, {"status": "ready", "database": "ok", "redis": "ok"})

    async def test_a_database_that_lacks_a_migration_is_not_ready(
        self, api: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = known_revisions()[-1]
        monkeypatch.setattr(operations, "known_revisions", lambda: (newest, "later"))
        ready = await api.get("/readyz")
        assert (ready.status, ready.code) == (503, "not-ready")
        assert f"at migration {newest} and this version needs later" in ready.json["detail"]

    async def test_a_database_that_a_newer_version_has_migrated_is_ready(self, api: Client, settings: Settings) -> None:
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("UPDATE alembic_version SET version_num = 'newer'")
        await connection.close()
        assert (await api.get("/readyz")).status == 200

    async def test_without_redis_it_is_degraded_and_takes_sagas(self, settings: Settings) -> None:
        without = settings.model_dump() | {"redis_url": "redis://127.0.0.1:1/0"}
        async with serve(Settings(**without)) as (api, _):
            ready = await api.get("/readyz")
            assert (ready.status, ready.json["status"]) == (200, "degraded")
            await api.put("/services/shop", {"url": "http://127.0.0.1:1"})
            step = {"name": "reserve", "service": "shop", "action": "x", "compensation": "none"}
            await api.put("/definitions/order", {"name": "order", "steps": [step]})
            answer = await api.post("/sagas", {"saga": "order", "input": 1}, Idempotency_Key="k")
            assert answer.status == 202


class TestMetrics:
    async def read(self, world: World) -> dict[str, float]:
        text = (await world.api.get("/metrics", key=None)).content.decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def test_gauges_tell_what_is_there(self, world: World) -> None:
        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"}, name="gauged")
        for _ in range(2):
            await world.submit("gauged")
        world.participant.on("charge", answers(422))
        world.participant.on("reserve", answers(400), operation="compensation")
        await world.ran("gauged")
        found = await self.read(world)
        assert found['saga_active{saga="gauged",state="EXECUTING"}'] == 2
        assert found['saga_active{saga="gauged",state="COMPENSATING"}'] == 0
        assert found['saga_attention{saga="gauged"}'] == 1
        assert found['saga_dead_letters{saga="gauged"}'] == 1
        assert (found["saga_stuck"], found["saga_oldest_overdue_seconds"], found["saga_database_up"]) == (0, 0, 1)
        assert found['saga_queue_depth{queue="saga.steps"}'] == 4
        assert any(name.startswith("saga_build_info{version=") for name in found)
        assert found['saga_started_total{saga="gauged"}'] == 3
        assert found['saga_step_attempts_total{operation="action",outcome="refused",saga="gauged",step="charge"}'] == 1

    async def test_stuck_is_what_stands_still_without_meaning_to(self, world: World, settings: Settings) -> None:
        await world.define({"name": "reserve"}, {"name": "charge"})
        names = ("silent", "retrying", "called back", "paused", "new")
        ids = {name: (await world.submit())["id"] for name in names}
        world.participant.on("reserve", answers(503), saga_id=ids["retrying"])
        world.participant.on("reserve", ACCEPTED, saga_id=ids["called back"])
        for name in ("retrying", "called back"):
            await world.run(ids[name])
        await world.act(ids["paused"], "pause")
        await world.submit(start_at="2099-01-01T00:00:00Z")
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute(
            "UPDATE saga SET updated_at = now() - interval '1 hour', wake_at = now() - interval '90 s' WHERE id <> $1",
            ids["new"],
        )
        await connection.execute(
            """UPDATE saga SET document = jsonb_set(document, '{steps,0,1,due_at}', '9000000000000000'::jsonb)
            WHERE id = $1""",
            ids["retrying"],
        )
        await connection.close()
        found = await self.read(world)
        assert found["saga_stuck"] == 1
        assert 90 <= found["saga_oldest_overdue_seconds"] < 120
        async with serve(settings.model_copy(update={"stuck_after": 7200})) as (patient, _):
            assert b"saga_stuck 0.0\n" in (await patient.get("/metrics", key=None)).content

    async def test_every_metric_has_the_name_and_the_labels_that_dashboards_rely_on(self, world: World) -> None:
        await world.define({"name": "reserve"}, name="measured")
        saga = await world.ran("measured", key="a-key")
        await tasks.sweep(world.worker, nullcontext)
        content = (await world.api.get("/metrics", key=None)).content.decode()
        found = {
            sample.name: {name for name in sample.labels if name != "le"}
            for family in text_string_to_metric_families(content)
            for sample in family.samples
        }
        for name, labels in METRICS.items():
            assert found.get(name) == set(labels.split()), name
        assert saga["id"] not in content
        assert "a-key" not in content
        counted = await self.read(world)
        assert counted['saga_finished_total{saga="measured",state="COMPLETED"}'] == 1
        assert counted['saga_duration_seconds_count{saga="measured",state="COMPLETED"}'] == 1
        assert counted['saga_step_duration_seconds_count{operation="action",saga="measured",step="reserve"}'] == 1
        assert counted['saga_sweep_total{result="run"}'] >= 1
        queues = {f'saga_queue_depth{{queue="saga.{name}"}}' for name in ("steps", "compensations", "system", "dlq")}
        assert queues <= set(counted)


METRICS = {
    "saga_started_total": "saga",
    "saga_finished_total": "saga state",
    "saga_duration_seconds_bucket": "saga state",
    "saga_step_attempts_total": "saga step operation outcome",
    "saga_step_duration_seconds_bucket": "saga step operation",
    "saga_active": "saga state",
    "saga_stuck": "",
    "saga_attention": "saga",
    "saga_dead_letters": "saga",
    "saga_oldest_overdue_seconds": "",
    "saga_queue_depth": "queue",
    "saga_sweep_total": "result",
    "saga_build_info": "version",
}


class TestDescription:
    async def test_every_operation_says_what_can_go_wrong(self, api: Client) -> None:
        told = (await api.get("/openapi.json", key=None)).json
        assert told["openapi"] == "3.1.0"
        seen = set()
        for path, methods in told["paths"].items():
            for method, operation in methods.items():
                seen.add(operation["operationId"])
                errors = {status for status in operation["responses"] if status >= "400"}
                assert {"500", "503"} <= errors
                assert ("401" in errors) == (operation.get("security") != [])
                assert ("422" in errors) or method == "get"
                for status in errors:
                    content = operation["responses"][status]["content"]
                    assert content == {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}, path
                named = re.findall(r"\{(\w+)\}", path)
                assert [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"] == named
        assert len(seen) == sum(len(operations) for operations in told["paths"].values())
        assert "HTTPValidationError" not in told["components"]["schemas"]
        assert told["components"]["securitySchemes"]["key"]["scheme"] == "bearer"

    async def test_every_reference_leads_somewhere(self, api: Client) -> None:
        text = (await api.get("/openapi.json", key=None)).content.decode()
        told = (await api.get("/openapi.json", key=None)).json
        for name in re.findall(r'"#/components/schemas/(\w+)"', text):
            assert name in told["components"]["schemas"]

    async def test_the_page_loads_nothing_from_elsewhere(self, api: Client) -> None:
        page = (await api.get("/docs", key=None)).content.decode()
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert not [each for each in loaded if each.startswith(("http:", "https:", "//"))]
        for each in loaded:
            if not each.startswith("data:"):
                async with api.session.get(f"{api.base}/{each}") as response:
                    assert response.status == 200, each

    async def test_answers_are_as_described(self, world: World) -> None:
        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
        await world.ran()
        world.participant.on("charge", answers(422))
        world.participant.on("reserve", answers(400), operation="compensation")
        failed = (await world.ran())["id"]
        await world.submit(labels={"a": "b"})
        seen = Description((await world.api.get("/openapi.json")).json)
        for path in (
            "/sagas",
            "/sagas?payloads=true&limit=1",
            f"/sagas/{failed}",
            f"/sagas/{failed}/events",
            "/definitions",
            "/definitions/order",
            "/services",
            "/services/shop",
            "/admin/api/sagas",
            f"/admin/api/sagas/{failed}/actions",
            "/admin/api/dead-letters",
            "/readyz",
            "/livez",
        ):
            seen.check("get", path, await world.api.get(path))
        for path, body in (
            (f"/admin/api/sagas/{failed}/retry", {"reason": "x"}),
            (f"/admin/api/sagas/{failed}/pause", {"reason": "x"}),
            ("/definitions/validate", {"name": "x"}),
            ("/sagas", {}),
        ):
            seen.check("post", path, await world.api.post(path, body))
        seen.check("get", "/admin/api/audit", await world.api.get("/admin/api/audit"))
        seen.check("put", "/services/shop", await world.api.put("/services/shop", {"url": "http://127.0.0.1:1"}))


class Description:
    """Holds answers against the OpenAPI document."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def check(self, method: str, path: str, answer: Any) -> None:
        import jsonschema_rs

        plain = path.partition("?")[0]
        (template,) = [each for each in self.told["paths"] if self._fits(each, plain)][:1]
        response = self.told["paths"][template][method]["responses"][str(answer.status)]
        content = response["content"][answer.headers["Content-Type"]]
        schema = {**content["schema"], "components": self.told["components"]}
        faults = [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(answer.json)]
        assert faults == [], path

    def _fits(self, template: str, path: str) -> bool:
        if template == path:
            return True
        exact = path in self.told["paths"]
        return not exact and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


async def test_requests_do_not_stop_at_a_server_that_forgets_them(api: Client) -> None:
    """Many at once over few connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=4)) as session:
        client = Client(session, api.base)
        for _ in range(20):
            assert (await client.get("/livez")).status == 200


def test_under_saga_up_a_gauge_is_what_was_read_and_nothing_beside_it(tmp_path: Path) -> None:
    """There every process keeps its values in files, and they are added up; what was read counts once."""
    code = (
        "from app import observability\n"
        "from prometheus_client import CollectorRegistry\n"
        "from app.api.operations import _gauges, _Read\n"
        "from app.store.gauges import Gauges\n"
        "observability.swept({'woken': 2})\n"
        "registry = CollectorRegistry()\n"
        "registry.register(_Read(_gauges(Gauges(definitions=['order'], stuck=3))))\n"
        "print(observability.exposition(registry).decode())"
    )
    environment = {**os.environ, "SAGA_METRICS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    series = [line.rpartition(" ")[0] for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert 'saga_sweep_total{result="woken"}' in series
    assert series.count("saga_stuck") == 1
    assert [name for name in series if "pid" in name] == []
    assert len(set(series)) == len(series)
