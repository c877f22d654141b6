"""`saga publish`."""

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says


def test_an_event_is_one_call(api: FakeApi, run: Run) -> None:
    api.answers["POST /events"] = Says(202, {"id": "one", "source": "shop"})
    result = run("publish", "OrderPlaced", "--event-data", '{"order_id": 7}', "--source", "shop", "--id", "one")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "OrderPlaced one is published.\n"
    (asked,) = api.asked
    assert asked.body == {
        "specversion": "1.0",
        "id": "one",
        "source": "shop",
        "type": "OrderPlaced",
        "data": {"order_id": 7},
    }


def test_one_that_is_known_is_said_so(api: FakeApi, run: Run) -> None:
    api.answers["POST /events"] = Says(200, {"id": "one", "source": "saga-cli"})
    assert run("publish", "OrderPlaced", "--id", "one").stdout == "OrderPlaced one was published before.\n"


def test_each_event_has_an_id_of_its_own(api: FakeApi, run: Run) -> None:
    api.answers["POST /events"] = Says(202, {"id": "one", "source": "saga-cli"})
    for _ in range(2):
        assert run("publish", "OrderPlaced").exit_code == 0
    assert len({asked.body["id"] for asked in api.asked}) == 2
