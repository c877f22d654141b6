"""A stream that a test fills by hand, and a tracker that follows it on command."""

import itertools
from typing import Any

import redis.asyncio

from app.house import House
from app.saga.definition import parse_definition
from saga_participant.events import FIELD, STREAM, Event

_numbers = itertools.count(1)


def listener(name: str, trigger: str, **more: Any) -> dict[str, Any]:
    """Step `pay` of service `shop`: succeeded PayDone, failed PayFailed, compensated PayUndone."""
    events = {"succeeded": f"{name}Done", "failed": f"{name}Failed", "compensated": f"{name}Undone"}
    return {"name": name, "service": "shop", "trigger": trigger, **events, "timeout": "30s", **more}


CHAIN = (listener("Reserve", "OrderPlaced"), listener("Pay", "ReserveDone"), listener("Confirm", "PayDone"))


class Stream:
    def __init__(self, house: House, valkey: redis.asyncio.Redis) -> None:
        self.house, self.valkey = house, valkey

    async def define(
        self, *steps: dict[str, Any], name: str = "order", started_by: str = "OrderPlaced", **more: Any
    ) -> None:
        document = {
            "name": name,
            "type": "choreography",
            "started_by": started_by,
            "correlation": "data.order_id",
            "steps": list(steps or CHAIN),
            **more,
        }
        await self.house.definitions.register(parse_definition(document, None))

    async def add(self, *types: str, order: Any = "1", source: str = "shop", **data: Any) -> None:
        for event_type in types:
            event = Event(event_type, source, {"order_id": order, **data}, id=f"event-{next(_numbers)}")
            await self.add_raw(event.to_json())

    async def add_raw(self, text: str | bytes) -> None:
        await self.valkey.xadd(STREAM, {FIELD: text})

    async def follow(self) -> None:
        """Until everything on the stream is acknowledged."""
        while await self.house.bus.lag() != 0:
            await self.house.tracker.turn()

    async def saga(self, order: Any = "1", name: str = "order") -> Any:
        found = await self.house.sagas.by_key("", f"{name}:{order}")
        return None if found is None else found[0]

    async def published(self) -> list[Event]:
        await self.house.relay.drain()
        entries = await self.valkey.xrange(STREAM)
        events = [Event.from_json(fields[FIELD.encode()]) for _, fields in entries]
        return [event for event in events if event.source == "/saga-orchestrator"]
