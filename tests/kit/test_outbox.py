"""'Commit the order and start the saga' is one decision; answers that come later arrive, whatever is down meanwhile."""

import pytest
from aiohttp import web
from sqlalchemy import select, update

from saga_participant import Refused
from saga_participant.barrier import Barrier
from saga_participant.outbox import call_back, forget_sent, start_saga
from saga_participant.participant import Participant
from saga_participant.tables import outbox
from tests.kit.conftest import call


@pytest.fixture(scope="module", params=["postgres async", "sqlite"])
def kind(request):
    return request.param


class Orchestrator:
    """Says what `answers` holds, then 202, and keeps what it was sent."""

    def __init__(self):
        self.answers, self.requests = [], []

    async def handle(self, request):
        self.requests.append((request.path, dict(request.headers), await request.json()))
        status = self.answers.pop(0) if self.answers else 202
        return web.json_response({"status": status}, status=status)


@pytest.fixture
async def orchestrator():
    orchestrator = Orchestrator()
    app = web.Application()
    app.router.add_post("/{path:.*}", orchestrator.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    orchestrator.url = f"http://{host}:{port}"
    yield orchestrator
    await runner.cleanup()


@pytest.fixture
def shop(service, redis_url, orchestrator):
    url = orchestrator.url
    return Participant("shop", service.engine, redis_url=redis_url, orchestrator_url=url, api_key="k.s")


async def rows(service):
    found = select(outbox.c.state, outbox.c.attempts).order_by(outbox.c.id)
    return [tuple(row) for row in await service.store.run(lambda session: session.execute(found).all())]


async def hurry(service, shop):
    now = update(outbox).where(outbox.c.state == "waiting").values(due_at=0)
    await service.store.run(lambda session: session.execute(now))
    await shop.settle()


def order(session):
    start_saga(session, "order", key="order-4711", input={"order_id": "4711"}, labels={"shop": "a"})


async def test_a_committed_order_starts_its_saga_with_its_key(service, shop, orchestrator):
    await service.store.run(order)
    await shop.settle()
    ((path, headers, body),) = orchestrator.requests
    assert path == "/sagas"
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("order-4711", "Bearer k.s")
    assert body == {"saga": "order", "input": {"order_id": "4711"}, "labels": {"shop": "a"}}
    await hurry(service, shop)
    assert len(orchestrator.requests) == 1


async def test_an_order_that_is_rolled_back_starts_nothing(service, shop, orchestrator):
    def fails(session):
        order(session)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await service.store.run(fails)
    await shop.settle()
    assert orchestrator.requests == []


async def test_it_is_posted_with_the_same_key_until_it_is_answered(service, shop, orchestrator):
    orchestrator.answers = [503, 401, 404, 429, 302]
    await service.store.run(order)
    await shop.settle()
    for attempts in range(1, 6):
        assert await rows(service) == [("waiting", attempts)]
        await hurry(service, shop)
    assert await rows(service) == [("sent", 6)]
    assert {headers["Idempotency-Key"] for _, headers, _ in orchestrator.requests} == {"order-4711"}


async def test_an_orchestrator_that_is_down_is_waited_for(service, redis_url, shop):
    down = Participant("shop", service.engine, redis_url=redis_url, orchestrator_url="http://127.0.0.1:1")
    await service.store.run(order)
    await down.settle()
    assert await rows(service) == [("waiting", 1)]


async def test_what_is_refused_for_good_is_kept_for_a_person(service, shop, orchestrator, caplog):
    orchestrator.answers = [422]
    await service.store.run(order)
    await shop.settle()
    assert await rows(service) == [("dead", 1)]
    assert "order-4711 was refused" in caplog.text
    await service.store.run(lambda session: forget_sent(session, 60))
    assert await rows(service) == [("dead", 1)]


@pytest.mark.parametrize(
    "key", ["", "x" * 201, "a b", "\N{PILE OF POO}", "a\n"], ids=["empty", "long", "space", "emoji", "line"]
)
def test_a_key_that_the_api_would_refuse_is_refused_before_the_commit(key):
    with pytest.raises(ValueError, match="visible ASCII"):
        start_saga(None, "order", key=key)


async def test_work_that_was_accepted_answers_when_it_is_done(service, shop, orchestrator):
    accepted = call("0199-1", callback_url=f"{orchestrator.url}/callbacks/token")

    def work(session):
        with Barrier(session, type(accepted).from_json(accepted.to_json())) as step:
            if step.due:
                step.answer = {"parcel": 7}
        call_back(session, accepted, step.answer)

    for _ in range(2):  # the orchestrator gave up the first attempt and sent a second
        await service.store.run(work)
    await service.store.run(lambda session: call_back(session, accepted, Refused("no parcels")))
    orchestrator.answers = [200, 409, 404]
    await shop.settle()
    said = [(path, body) for path, _, body in orchestrator.requests]
    assert sorted(said, key=str) == [
        ("/callbacks/token", {"status": "refused", "error": "no parcels"}),
        ("/callbacks/token", {"status": "succeeded", "output": {"parcel": 7}}),
        ("/callbacks/token", {"status": "succeeded", "output": {"parcel": 7}}),
    ]
    assert sorted(await rows(service)) == [("dead", 1), ("sent", 1), ("sent", 1)]
    assert all("Authorization" not in headers for _, headers, _ in orchestrator.requests)


async def test_a_call_without_a_callback_address_cannot_be_answered_later(service):
    with pytest.raises(ValueError, match="no callback address"):
        call_back(None, call("0199-1"), {})
