"""One attempt, for tests that make others of it."""

import math
from dataclasses import replace
from datetime import UTC, datetime

from app.participants.contract import Attempt
from app.saga.definition import Statuses

ATTEMPT = Attempt(
    saga_id="01991d6e-0000-7000-8000-000000000001",
    saga="order",
    step="charge",
    operation="action",
    number=2,
    name="charge-card",
    key="01991d6e-0000-7000-8000-000000000001/charge",
    input=b'{"amount":12.5,"text":"\xc3\xa9"}',
    outputs={"reserve": b'{"id":[1,2]}'},
    output=None,
    timeout_seconds=5,
    send_before=math.inf,
    deadline=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
    after_unknown=False,
    statuses=Statuses(),
    callback_url="http://127.0.0.1:8000/callbacks/token",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
UNDOING = replace(
    ATTEMPT, operation="compensation", name="refund", key=f"{ATTEMPT.key}/compensation", output=b'{"charge":4711}'
)
LIMIT = 10_000
