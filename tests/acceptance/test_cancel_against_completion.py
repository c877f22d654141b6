"""A cancel in the very instant in which the last step answers: one truth, and no server error, round after round."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.house import house
from tests.participant import OK, Asked, Behaviour, Hold, Participant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROUNDS = 50
STEPS = ["reserve", "charge", "confirm"]
DEFINITION = {
    "name": "order",
    "steps": [{"name": step, "service": "shop", "action": step, "compensation": f"undo-{step}"} for step in STEPS],
}


class Aim:
    """When the cancel is sent, in seconds after the participant answers; before it where that is negative.

    A staircase: later after a cancel that won, earlier after one that lost, in steps that shrink where it turns. So it
    stays where neither is sure to win.
    """

    SMALLEST = 0.0005

    def __init__(self) -> None:
        self.offset, self._step, self._later = -0.02, 0.016, True

    def cancel_won(self, won: bool) -> None:
        if won != self._later:
            self._step, self._later = max(self._step / 2, self.SMALLEST), won
        self.offset += self._step if won else -self._step


async def test_fifty_rounds_have_one_truth_each(tmp_path: Path, unused_tcp_port: int) -> None:
    sagas = tmp_path / "sagas"
    sagas.mkdir()
    (sagas / "order.yaml").write_text(json.dumps(DEFINITION))
    (sagas / "services.yaml").write_text(f"shop: {{url: 'http://127.0.0.1:{unused_tcp_port}'}}\n")
    outcomes: Counter[tuple[int, str]] = Counter()
    aim = Aim()
    with house(tmp_path, sagas) as running:
        async with Participant.serve(unused_tcp_port) as shop, running.client() as client:
            answering = Hold()

            def behave(asked: Asked) -> Behaviour:
                last = asked.step == STEPS[-1] and asked.operation == "action"
                return replace(OK, then_hold=answering) if last else OK

            async def cancel(saga_id: str) -> tuple[int, dict]:
                async with client.session.post(f"{client.url}/sagas/{saga_id}/cancel") as response:
                    return response.status, await response.json()

            shop.default = behave
            for number in range(ROUNDS):
                answering = Hold()
                saga_id = (await client.submit(f"round-{number}", "order", {}))["id"]
                async with asyncio.timeout(20):
                    await answering.reached.wait()
                # These sleeps aim; nothing is taken for granted that they should have brought about.
                if aim.offset < 0:
                    asked = asyncio.create_task(cancel(saga_id))
                    await asyncio.sleep(-aim.offset)
                    answering.release()
                else:
                    answering.release()
                    await asyncio.sleep(aim.offset)
                    asked = asyncio.create_task(cancel(saga_id))
                status, answer = await asked
                saga = (await client.until_at_rest([saga_id]))[saga_id]

                outcomes[status, saga["state"]] += 1
                if status == 202:
                    assert saga["state"] == "FAILED", (status, saga)
                    assert saga["error"]["code"] == "cancelled"
                    assert shop.standing(saga_id) == []
                    assert shop.undone(saga_id) == STEPS[::-1]
                else:
                    assert (status, answer["code"]) == (409, "saga-at-rest"), answer
                    assert saga["state"] == "COMPLETED", (status, saga)
                    assert shop.standing(saga_id) == STEPS
                aim.cancel_won(status == 202)
            assert shop.faults == []
            assert set(outcomes) == {(202, "FAILED"), (409, "COMPLETED")}, "one of the two never won"
            assert min(outcomes.values()) >= ROUNDS // 10, outcomes
            attention = await client.get("/sagas?attention=true")
            assert attention["items"] == []
        assert await running.check_histories() == ROUNDS
