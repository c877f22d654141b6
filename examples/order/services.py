"""Three services of a shop: `python services.py inventory --port 9001 --data DIR` (or payment, or order).

Each is a process of its own with a SQLite ledger of its own, knows nothing of sagas but five headers, and is
asked by `POST /{action or compensation}`. `GET /ledger` shows what it holds and what every key did.

The input of a saga can ask for trouble: more than is in stock, `card: declined`, `confirm: refuse`, and
`delay: {charge: 3}`, which holds back the answer to the first attempt of `charge` for so many seconds (30 at
most) after it has taken effect. So a caller can be killed while its answer is on the way.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from ledger import Call, DeadlinePassedError, Ledger, Refused

LONGEST_DELAY_SECONDS = 30

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Service:
    opening: Mapping[str, int]
    """What its new ledger holds."""
    actions: Mapping[str, Callable[[Ledger, Call], Answer]]
    compensations: Mapping[str, Callable[[Ledger, Call, Answer], Answer]]
    """Given what the action answered; called only where the action took effect."""


def reserve(ledger: Ledger, call: Call) -> Answer:
    sku, quantity = text(call, "sku"), whole(call, "quantity")
    if not ledger.move(sku, -quantity):
        raise Refused(422, f"fewer than {quantity} of {sku} are in stock")
    return {"sku": sku, "reserved": quantity}


def release(ledger: Ledger, _call: Call, done: Answer) -> Answer:
    ledger.move(done["sku"], done["reserved"])
    return {"sku": done["sku"], "released": done["reserved"]}


def charge(ledger: Ledger, call: Call) -> Answer:
    card, cents = text(call, "card"), whole(call, "amount")
    if card == "declined":
        raise Refused(402, "the card was declined")
    ledger.move(card, cents)
    return {"card": card, "charged": cents}


def refund(ledger: Ledger, _call: Call, done: Answer) -> Answer:
    ledger.move(done["card"], -done["charged"])
    return {"card": done["card"], "refunded": done["charged"]}


def confirm(ledger: Ledger, call: Call) -> Answer:
    if call.input.get("confirm") == "refuse":
        raise Refused(422, "the shop does not want this order")
    ledger.move(call.saga_id, 1)
    return {"order": call.saga_id, "confirmed": 1}


def cancel(ledger: Ledger, _call: Call, done: Answer) -> Answer:
    ledger.move(done["order"], -done["confirmed"])
    return {"order": done["order"], "cancelled": done["confirmed"]}


SERVICES = {
    "inventory": Service({"book": 100_000, "lamp": 3}, {"reserve": reserve}, {"release": release}),
    "payment": Service({}, {"charge": charge}, {"refund": refund}),
    "order": Service({}, {"confirm": confirm}, {"cancel": cancel}),
}


def text(call: Call, name: str) -> str:
    value = call.input.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(422, f"{name} has to be a text")
    return value


def whole(call: Call, name: str) -> int:
    value = call.input.get(name)
    if type(value) is not int or not 0 < value < 2**53:
        raise Refused(422, f"{name} has to be a whole number above 0")
    return value


SERVICE = web.AppKey("service", Service)
LEDGER = web.AppKey("ledger", Ledger)

routes = web.RouteTableDef()


@routes.get("/ledger")
async def show(request: web.Request) -> web.Response:
    ledger = request.app[LEDGER]
    entries = ledger.entries(request.query.get("saga_id"))
    return web.json_response({"holdings": ledger.holdings(), "entries": entries})


@routes.post("/{name}")
async def perform(request: web.Request) -> web.Response:
    name, service, ledger = request.match_info["name"], request.app[SERVICE], request.app[LEDGER]
    try:
        call = read(request.headers, json.loads(await request.read()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return problem(400, "not a call: see section 4 of the contract")
    try:
        if action := service.actions.get(name):
            answer = ledger.act(call, lambda: action(ledger, call))
        elif compensation := service.compensations.get(name):
            answer = ledger.undo(call, lambda done: compensation(ledger, call, done))
        else:
            return problem(404, f"nothing here is called {name}")
    except Refused as refused:
        return problem(refused.status, str(refused))
    except DeadlinePassedError:
        return problem(503, "the deadline has passed; nothing was done")
    await asyncio.sleep(delay_seconds(call, name))
    return web.json_response(answer)


def read(headers: Mapping[str, str], body: dict[str, Any]) -> Call:
    deadline = headers.get("Saga-Deadline")
    return Call(
        key=headers["Idempotency-Key"],
        saga_id=body["saga_id"],
        step=body["step"],
        operation=body["operation"],
        attempt=int(body["attempt"]),
        deadline=datetime.fromisoformat(deadline).astimezone(UTC) if deadline else None,
        input=dict(body["input"] or {}),
    )


def delay_seconds(call: Call, name: str) -> float:
    delays = call.input.get("delay")
    seconds = delays.get(name) if call.attempt == 1 and isinstance(delays, dict) else 0
    return min(seconds, LONGEST_DELAY_SECONDS) if isinstance(seconds, int | float) and seconds > 0 else 0


def problem(status: int, detail: str) -> web.Response:
    body = {"type": "about:blank", "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=SERVICES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="where the ledger's file is kept")
    arguments = parser.parse_args()

    service = SERVICES[arguments.name]
    app = web.Application()
    app[SERVICE] = service
    app[LEDGER] = Ledger(arguments.data / f"{arguments.name}.sqlite", dict(service.opening))
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
