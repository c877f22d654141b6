"""What somebody may not do stands on the page all the same: greyed, with the reason."""

import pytest

from tests.api.conftest import ONCE, Client, World
from tests.dashboard.conftest import Browser, Element
from tests.participant import BUSY

WORDS = "the words of somebody"
NEEDED = "This needs the role operator."


@pytest.fixture
async def held(world: World) -> str:
    """A saga that needs a person."""
    await world.define({"name": "reserve"}, {"name": "charge", "retry": ONCE, "on_exhausted": "pause"})
    world.participant.on("charge", BUSY)
    return (await world.ran())["id"]


async def entering(api: Client, role: str) -> Browser:
    made = await api.post("/admin/api/users", {"name": "ada", "role": role, "password": WORDS})
    assert made.status == 201, made.content
    return await Browser.logged_in(api, "ada", WORDS)


def barred(main: Element) -> dict[str, str]:
    """By their words, why the greyed buttons are."""
    return {each.one("button", disabled=None).text: each.one("small").text for each in main.all("span", "barred")}


async def test_a_viewer_sees_what_others_could_do_and_which_role_it_needs(held: str, api: Client):
    viewer = await entering(api, "viewer")
    landing, listed = (await viewer.get("/admin/")).main, (await viewer.get("/admin/sagas")).main
    assert barred(landing) == {"Retry all…": NEEDED}
    assert barred(listed) == {"Retry, compensate or pause": NEEDED}
    assert not list(listed.all("input", name="selected"))
    saga = (await viewer.get(f"/admin/sagas/{held}")).main
    assert barred(saga) == {"Edit and retry": NEEDED, "Start one like this": NEEDED}
    refused = {each["data-action"]: each.text for each in saga.one("ul", "refused").all("li")}
    assert refused["retry"].endswith(NEEDED)
    assert not list(saga.all("form"))


async def test_what_is_greyed_is_refused_to_who_asks_nevertheless(held: str, api: Client):
    viewer = await entering(api, "viewer")
    seq = (await viewer.get(f"/admin/sagas/{held}")).main.one("section", id="head")["data-seq"]
    bulk = "/admin/sagas/bulk?action=retry&of=all"
    asked = [
        await viewer.post(f"/admin/sagas/{held}/do/retry", seq=seq, reason="x"),
        await viewer.get(bulk),
        await viewer.post(bulk, reason="x", limit="1"),
        await viewer.get(f"/admin/sagas/{held}/input/charge"),
        await viewer.post(f"/admin/sagas/{held}/input/charge", seq=seq, input="{}"),
        await viewer.get(f"/admin/sagas/{held}/again"),
        await viewer.post(f"/admin/sagas/{held}/again", key="k", input="{}"),
    ]
    assert [(each.status, "with the role `operator`" in each.text) for each in asked] == [(403, True)] * len(asked)
    assert (await viewer.get(f"/admin/sagas/{held}")).main.one("section", id="head")["data-seq"] == seq


async def test_nothing_is_greyed_for_an_operator(held: str, api: Client):
    operator = await entering(api, "operator")
    for path in ("/admin/", "/admin/sagas", f"/admin/sagas/{held}"):
        assert barred((await operator.get(path)).main) == {}
