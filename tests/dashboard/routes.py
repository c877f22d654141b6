"""Every route of the dashboard, and a house furnished so that each of them has something to show."""

import secrets
from dataclasses import dataclass
from typing import Final

from fastapi.routing import APIRoute

from app.dashboard import PAGES
from app.dashboard.pages import asset
from tests.api.conftest import ONCE, World
from tests.dashboard.conftest import PASSWORD
from tests.participant import BUSY, REFUSED, answers

ROUTES: Final = [
    f"{method} {route.path}"
    for router in PAGES
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods)
]


@dataclass
class Furnished:
    world: World
    held: str
    """A saga whose step `charge` waits for a person."""
    stuck: str
    """A saga whose compensation was given up; it has an open dead letter."""
    key: str
    user: str
    job: str
    """That was done to many, or to nobody."""

    @classmethod
    async def make(cls, world: World) -> "Furnished":
        furnished = cls(world, "", "", "", "", "")
        await furnished.define_order("15m")
        await world.define({"name": "reserve"}, {"name": "charge", "retry": ONCE, "on_exhausted": "pause"}, name="held")
        furnished.held, furnished.stuck = await furnished.hold(), await furnished.get_stuck()
        furnished.key, furnished.user = await furnished.make_key(), await furnished.make_user("dan")
        furnished.job = await furnished.make_job()
        return furnished

    async def define_order(self, lasts: str) -> None:
        """Another version with each time that it may last."""
        steps = {"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"}
        await self.world.define(*steps, timeout=lasts)

    async def hold(self) -> str:
        saga_id: str = (await self.world.submit("held", labels={"a": "b"}))["id"]
        self.world.participant.on("charge", BUSY, saga_id=saga_id)
        assert (await self.world.run(saga_id))["attention"] is not None
        return saga_id

    async def get_stuck(self) -> str:
        saga_id: str = (await self.world.submit(labels={"a": "b"}))["id"]
        self.world.participant.on("charge", REFUSED, saga_id=saga_id)
        self.world.participant.on("reserve", answers(400), operation="compensation", saga_id=saga_id)
        assert (await self.world.run(saga_id))["state"] == "COMPENSATION_FAILED"
        return saga_id

    async def letter_of(self, saga_id: str) -> str:
        letters = (await self.world.api.get("/admin/api/dead-letters")).json["items"]
        (letter,) = [letter["id"] for letter in letters if letter["saga_id"] == saga_id]
        return str(letter)

    async def make_key(self) -> str:
        made = await self.world.api.post("/admin/api/keys", {"scopes": ["read"], "note": "a test"})
        assert made.status == 201, made.content
        return str(made.json["id"])

    async def make_user(self, name: str, role: str = "viewer", tenant: str | None = None) -> str:
        body = {"name": name, "role": role, "tenant": tenant, "password": PASSWORD}
        made = await self.world.api.post("/admin/api/users", body)
        assert made.status == 201, made.content
        return name

    async def make_job(self) -> str:
        body = {"action": "pause", "filter": {"key": "of nobody"}, "reason": "a test"}
        made = await self.world.api.post("/admin/api/bulk", body)
        assert made.status == 200, made.content
        return made.headers["Location"].rpartition("/")[2]

    async def make_service(self) -> str:
        name = f"service-{secrets.token_hex(4)}"
        made = await self.world.api.put(f"/services/{name}", {"url": "http://127.0.0.1:9/"})
        assert made.status == 201, made.content
        return name

    async def more(self) -> None:
        """Of everything that a page lists."""
        for number in range(8):
            await self.get_stuck()
            await self.hold()
            await self.make_key()
            await self.make_user(f"user-{number}")
            await self.world.define({"name": "one"}, name=f"another-{number}")
            await self.define_order(f"{number + 1}h")
            await self.make_service()
            await self.make_job()

    def page(self, path: str) -> str:
        """The address of a page, or of a stream or file, at its route."""
        given = {
            "/admin/static/{digest}/{name}": asset("app.css"),
            "/admin/definitions/{name}": "/admin/definitions/order",
            "/admin/bulk/{id}": f"/admin/bulk/{self.job}",
            "/admin/sagas/bulk": "/admin/sagas/bulk?action=retry&of=all",
        }
        return given.get(path, path.replace("{id}", self.held).replace("{step}", "charge"))
