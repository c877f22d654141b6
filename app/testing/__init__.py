"""A test kit for definitions: run one against scripted participants, without servers and in no time.

    def test_a_refused_card_releases_the_stock(saga_run):
        run = saga_run("sagas/order.yaml", input={"sku": "tea"})
        run.step("charge").refuses(402, "card declined")
        result = run.go()
        assert result.state == "FAILED"
        assert result.calls == ["reserve", "charge", "reserve/compensation"]
        result.assert_undone("reserve")

What decides is what decides in production: the machine (`app.saga.machine`), the expressions, the reading of a
participant's status. Only time, the queue and the participants are played, by a loop over a virtual clock, and always
in the same order. Not played: HTTP itself, polling, other sagas (`max_concurrent`), and a house that dies.

The fixture `saga_run` comes with the package (a pytest plugin); without pytest `Run` does the same. docs/testing.md
has the whole of it.
"""

from app.testing.failures import Story, assert_all_or_nothing, every_failure
from app.testing.result import Conflict, Result
from app.testing.run import NotAtRest, Run
from app.testing.script import Script

__all__ = ["Conflict", "NotAtRest", "Result", "Run", "Script", "Story", "assert_all_or_nothing", "every_failure"]
