"""The server in front of the application: uvicorn, with bounds that it lacks.

uvicorn waits for the rest of a request as long as its sender likes, and collects headers without end. Here a request
has `SAGA_BODY_TIMEOUT` from its first byte to its last, answered or not, and its head `SAGA_MAX_HEAD_BYTES`. So a
connection costs no more than that, whatever its other end does. What is answered before the application is asked is
problem+json as well.

A head that comes in one piece with more than the limit is measured too. Not bounded: the number of connections, which
is for what stands in front of the service.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api import problems
from app.errors import Problem
from app.settings import Settings

ERRORS: Final = (400, 408, 431)
"""What any request may be answered with before a route is looked for."""


def protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The class for `uvicorn.Config(http=...)`."""

    class Bounded(BoundedProtocol):
        seconds = settings.body_timeout
        head_bytes = settings.max_head_bytes

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    seconds: float
    head_bytes: int

    _timer: asyncio.TimerHandle | None = None
    _until: float | None = None
    """When what is being received has to be there."""
    _in_head = True
    _received = 0
    """Bytes of the head that is being read, in pieces that hold nothing else."""
    _piece = 0
    """Bytes that came last."""
    _heads = 0
    """Heads that have been read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads, self._piece = self._in_head, self._heads, len(data)
        super().data_received(data)
        whole = was_in_head and self._in_head and heads == self._heads
        if whole and not self.transport.is_closing():
            self._received += self._piece
            if self._received > self.head_bytes:
                self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        self._in_head, self._received = True, 0
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        if self._received + self._piece > self.head_bytes:  # which may be because of what comes after the head
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self.head_bytes:
                self._refuse(self._too_large())
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._expect_nothing()
        self._in_head, self._received = True, 0
        if not self.transport.is_closing():
            super().on_message_complete()

    # --- in time ---

    def _expect(self) -> None:
        # One timer goes on through many requests: to set one for each would be the dearest part of this file.
        self._until = self.loop.time() + self.seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._until, self._look)

    def _expect_nothing(self) -> None:
        self._until = None

    def _look(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self.loop.time() < self._until:
            self._timer = self.loop.call_at(self._until, self._look)
        else:
            self._until = None
            self._late()

    def _late(self) -> None:
        cycle = self.cycle
        busy = cycle is not None and not cycle.response_complete
        if self.transport.is_closing():
            return
        if self._in_head and busy:  # the answer to the request before it is still to come
            cycle.keep_alive = False
        elif not self._in_head and (not busy or cycle.response_started):  # nobody waits for the rest of the body
            self.transport.close()
        else:
            what = "head" if self._in_head else "body"
            detail = f"The {what} of the request has not arrived as a whole within {self.seconds:g} s. Send it again."
            self._refuse(Problem(408, f"{what}-too-slow", detail, timeout=self.seconds))

    # --- answers of our own ---

    def _too_large(self) -> Problem:
        detail = f"The address and headers of the request are larger than {self.head_bytes:,} bytes."
        return Problem(431, "head-too-large", detail, limit=self.head_bytes)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "request-malformed", f"{msg.rstrip('.')}: this is not HTTP/1.1 (RFC 9112)."))

    def _refuse(self, problem: Problem) -> None:
        """Answers, and closes the connection. The application, where it is at work, sees its client leave."""
        self._expect_nothing()
        if self.transport.is_closing():
            return
        response = problems.respond(problem)
        head: list[Any] = [STATUS_LINE[problem.status]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")):
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
