"""A worker whose watchdog looks often; with `deaf` as argument it stops listening after its first message.

Deaf as kombu has been: it is connected and believes that it waits for an answer, and nobody has been asked.
"""

import sys
from typing import Any

from app.parts import worker
from app.settings import get_settings
from workers import transport, watchdog

watchdog.LOOK_SECONDS = 0.1  # type: ignore[misc]

if "deaf" in sys.argv:
    hear, deliver = transport.Channel._brpop_start, transport.Channel._brpop_read
    handed: list[Any] = []

    def brpop_start(channel: transport.Channel, timeout: float | None = None) -> None:
        if handed:
            channel._in_poll = channel.client.connection
        else:
            hear(channel, timeout)

    def brpop_read(channel: transport.Channel, **options: Any) -> Any:
        found = deliver(channel, **options)
        handed.append(found)
        return found

    transport.Channel._brpop_start = brpop_start  # type: ignore[method-assign]
    transport.Channel._brpop_read = brpop_read  # type: ignore[method-assign]

worker(get_settings())
