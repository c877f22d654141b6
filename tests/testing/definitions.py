"""Small definitions to try the kit on."""

from typing import Any

ORDER = """
name: order
timeout: 5m
steps:
  - {name: reserve, service: inventory, action: reserve, compensation: release}
  - name: charge
    service: payment
    action: charge
    compensation: refund
    retries: 2
    input: {amount: input.total, reservation: steps.reserve.output.id}
  - {name: confirm, service: order, action: confirm, compensation: cancel, when: input.confirm}
"""


def a_step(name: str, *, attempts: int = 2, **more: Any) -> dict[str, Any]:
    """Without jitter: the second attempt begins a second after the first, the third two seconds after that."""
    plain = {"max_attempts": attempts, "jitter": 0}
    step = {"name": name, "service": "service", "action": name, "compensation": f"un{name}", "retry": plain}
    return {**step, "compensation_retry": plain, **more}


def define(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "trip", "steps": list(steps), **more}
