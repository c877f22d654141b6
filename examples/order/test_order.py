"""What the definition promises, tried without servers: `.venv/bin/python -m pytest examples/order`.

docs/testing.md says what else can be done with `saga_run`.
"""

from app.pytest_plugin import SagaRuns
from app.testing import assert_all_or_nothing
from saga_participant import Call

ORDER = "sagas/order.yaml"
INPUT = {"sku": "tea", "quantity": 2, "amount": 1200, "card": "visa"}


def test_an_order_is_reserved_charged_and_confirmed(saga_run: SagaRuns) -> None:
    result = saga_run(ORDER, input=INPUT).go()
    assert result.state == "COMPLETED"
    result.assert_done("reserve-inventory", "charge-payment", "confirm-order")


def test_a_declined_card_releases_the_stock(saga_run: SagaRuns) -> None:
    run = saga_run(ORDER, input=INPUT)
    run.step("charge-payment").refuses(402, "card declined")
    result = run.go()
    assert result.calls == ["reserve-inventory", "charge-payment", "reserve-inventory/compensation"]
    result.assert_undone("reserve-inventory")


def test_a_charge_whose_answer_is_lost_is_charged_once(saga_run: SagaRuns) -> None:
    def charge(call: Call) -> dict[str, int]:
        return {"charged": call.input["amount"]}

    run = saga_run(ORDER, input=INPUT)
    run.step("charge-payment").answers(charge).loses_the_answer(on=1)
    result = run.go()
    assert result.state == "COMPLETED"
    first, second = result.sent_to("charge-payment")
    assert first.idempotency_key == second.idempotency_key
    assert result.effects["charge-payment"] == {"charged": 1200}


def test_a_cancel_in_the_middle_of_the_charge_refunds_it(saga_run: SagaRuns) -> None:
    run = saga_run(ORDER, input=INPUT)
    run.cancel(during="charge-payment")
    result = run.go()
    assert result.error == "cancelled"
    result.assert_undone("charge-payment", "reserve-inventory")


def test_whatever_fails_all_of_the_order_is_done_or_nothing(saga_run: SagaRuns) -> None:
    assert_all_or_nothing(saga_run(ORDER, input=INPUT))
