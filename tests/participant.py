"""A participant that does what a test tells it, and keeps a ledger of what it was asked and of what it did.

The ledger is the oracle: it knows nothing of our tables. It honours the idempotency key (the second request with a key
that it has done gets the first one's answer; while the first is at work, 409), and it writes down as `faults` what no
orchestrator may do to it: the same attempt twice, two keys for one operation, one key for two inputs, an action that
takes effect after its compensation.

    async with Participant.serve() as participant:
        participant.on("charge", BUSY, OK)                    # 503 to the first request, then it does it
        participant.on("charge", REFUSED, operation="compensation", saga_id=...)
        ... services.put(Service("payment", url=participant.url)) ...
        assert participant.standing(saga_id) == ["reserve", "charge"]

A process of its own: `python -m tests.participant [PORT]` prints its address, answers `GET /ledger`, and takes
`POST /script` with {step, operation?, saga_id?, behaviours: [names of this module's constants, or HELD: a request that
waits, and is then done]}. `POST /let-go` lets everything go on that waits.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from aiohttp import web

ACTION: Final = "action"
COMPENSATION: Final = "compensation"


@dataclass(frozen=True)
class Behaviour:
    """What becomes of one request. The default: do it and answer 200 with what was done as JSON."""

    status: int = 200
    body: Any = None
    """bytes go as they are, anything else as JSON. None: {"step", "operation", "n"} of a success, empty otherwise."""
    headers: Mapping[str, str] = field(default_factory=dict)
    does: bool = True
    """Whether it takes effect, once for a key."""
    wait_seconds: float = 0
    """Before it takes effect."""
    hold: "Hold | None" = None
    """Before it takes effect; the test releases it."""
    then_hold: "Hold | None" = None
    """Between taking effect (and the bytes of `raw`) and answering."""
    cut: bool = False
    """Closes the connection in place of answering."""
    raw: bytes | None = None
    """Written to the socket in place of an HTTP answer; then the connection is closed."""
    hang_up_after: bool = False
    """Closes the connection after a whole answer that did not announce it."""


class Hold:
    """A request that has come so far waits here until the test lets it go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._released.wait()


OK: Final = Behaviour()
REFUSED: Final = Behaviour(
    422, {"detail": "we do not want to"}, {"Content-Type": "application/problem+json"}, does=False
)
BUSY: Final = Behaviour(503, does=False)
DONE_BUT_503: Final = Behaviour(503)
CUT: Final = Behaviour(cut=True, does=False)
DONE_BUT_CUT: Final = Behaviour(cut=True)
MALFORMED: Final = Behaviour(raw=b"NOT HTTP AT ALL\r\n\r\n", does=False)
DONE_BUT_MALFORMED: Final = Behaviour(raw=b"NOT HTTP AT ALL\r\n\r\n")
ACCEPTED: Final = Behaviour(202, does=False)
GONE: Final = Behaviour(410, does=False)


def answers(status: int, body: Any = None, **headers: str) -> Behaviour:
    """An answer with that status that does nothing unless it is a success."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Behaviour(status, body, named, does=200 <= status < 300)


def hangs() -> Behaviour:
    """Does nothing and never answers: the connection stays open until the participant is closed."""
    return Behaviour(hold=Hold(), does=False)


def closed_port() -> int:
    """Of loopback, where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    saga_id: str
    saga: str
    step: str
    operation: str
    attempt: int
    key: str
    body: Mapping[str, Any]
    content: bytes
    headers: Mapping[str, str]
    at: float


@dataclass(frozen=True)
class Done:
    """One effect."""

    saga_id: str
    step: str
    operation: str
    key: str
    at: float


class Participant:
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.done: list[Done] = []
        self.faults: list[str] = []
        self.url = ""
        self.default: Behaviour | Callable[[Asked], Behaviour] = OK
        self.came = asyncio.Condition()
        """Notified after every request that has come and every effect."""
        self._scripts: dict[tuple[str, str, str | None], list[Behaviour]] = {}
        self.delay_seconds = 0.0
        """Of every request, before anything else."""
        self._answers: dict[str, Any] = {}
        self._asked_by_operation: defaultdict[tuple[str, str, str], list[Asked]] = defaultdict(list)
        self._at_work: Counter[str] = Counter()
        self._holds: list[Hold] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(cls, port: int = 0) -> "AsyncIterator[Participant]":
        participant = cls()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/ledger", participant._ledger)
        app.router.add_post("/script", participant._script)
        app.router.add_post("/let-go", participant._let_go)
        app.router.add_post("/{path:.*}", participant._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        participant.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield participant
        finally:
            for hold in participant._holds:
                hold.release()
            await runner.cleanup()

    # --- what it shall do ---

    def on(self, step: str, *behaviours: Behaviour, operation: str = ACTION, saga_id: str | None = None) -> None:
        """Of the next requests for that operation, one each; what comes after goes well."""
        self._scripts.setdefault((step, operation, saga_id), []).extend(behaviours)
        self._holds += [hold for b in behaviours for hold in (b.hold, b.then_hold) if hold is not None]

    def always(self, step: str, behaviour: Behaviour, operation: str = ACTION) -> None:
        self.on(step, *[behaviour] * 1000, operation=operation)

    def hold(self, step: str, behaviour: Behaviour = OK, operation: str = ACTION, **where: Any) -> Hold:
        """The next request for it waits before it takes effect, until the test lets it go."""
        hold = Hold()
        self.on(step, replace(behaviour, hold=hold), operation=operation, **where)
        return hold

    def well_again(self) -> None:
        """Forgets every script."""
        self._scripts.clear()
        self.default = OK

    # --- what has come of it ---

    def requests(self, step: str, operation: str = ACTION, saga_id: str | None = None) -> list[Asked]:
        return [a for a in self.asked if a.step == step and a.operation == operation and saga_id in {None, a.saga_id}]

    def effects(self, saga_id: str) -> list[tuple[str, str]]:
        """(operation, step) in the order in which they took effect."""
        return [(d.operation, d.step) for d in self.done if d.saga_id == saga_id]

    def standing(self, saga_id: str) -> list[str]:
        """Steps whose action took effect and was not undone."""
        stands: dict[str, None] = {}
        for operation, step in self.effects(saga_id):
            if operation == ACTION:
                stands[step] = None
            else:
                stands.pop(step, None)
        return list(stands)

    def undone(self, saga_id: str) -> list[str]:
        """Steps whose compensation took effect, in that order."""
        return [step for operation, step in self.effects(saga_id) if operation == COMPENSATION]

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Waits until it is true of the ledger."""
        async with asyncio.timeout(seconds), self.came:
            await self.came.wait_for(condition)

    # --- the service ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = json.loads(content)
        asked = Asked(
            path=request.match_info["path"],
            saga_id=body["saga_id"],
            saga=body["saga"],
            step=body["step"],
            operation=body["operation"],
            attempt=body["attempt"],
            key=request.headers["Idempotency-Key"],
            body=body,
            content=content,
            headers=dict(request.headers),
            at=time.monotonic(),
        )
        self._look_for_faults(asked)
        self.asked.append(asked)
        behaviour = self._behaviour(asked)
        await self._notify()
        if behaviour.does and self._at_work[asked.key]:
            return web.Response(status=409, text="the first request with this key is still at work")
        self._at_work[asked.key] += behaviour.does
        try:
            if behaviour.wait_seconds:
                await asyncio.sleep(behaviour.wait_seconds)
            if behaviour.hold is not None:
                await behaviour.hold.wait()
            if behaviour.does:
                self._do(asked)
                await self._notify()
            if behaviour.raw is not None and request.transport is not None:
                request.transport.write(behaviour.raw)
            if behaviour.then_hold is not None:
                await behaviour.then_hold.wait()
        finally:
            self._at_work[asked.key] -= behaviour.does
        return self._answer(request, asked, behaviour)

    def _behaviour(self, asked: Asked) -> Behaviour:
        for saga_id in (asked.saga_id, None):
            script = self._scripts.get((asked.step, asked.operation, saga_id))
            if script:
                return script.pop(0)
        return self.default if isinstance(self.default, Behaviour) else self.default(asked)

    def _do(self, asked: Asked) -> None:
        if asked.key in self._answers:
            return
        if asked.operation == ACTION and (COMPENSATION, asked.step) in self.effects(asked.saga_id):
            self.faults.append(f"{asked.step} of {asked.saga_id} took effect after its compensation")
        self._answers[asked.key] = {"step": asked.step, "operation": asked.operation, "n": len(self.done) + 1}
        self.done.append(Done(asked.saga_id, asked.step, asked.operation, asked.key, time.monotonic()))

    def _answer(self, request: web.Request, asked: Asked, behaviour: Behaviour) -> web.StreamResponse:
        transport = request.transport
        if behaviour.cut or behaviour.raw is not None:
            if transport is not None:
                transport.close()
            return web.Response()
        body = behaviour.body
        if body is None and 200 <= behaviour.status < 300:
            body = self._answers.get(asked.key)
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **behaviour.headers}
        response = web.Response(status=behaviour.status, body=content, headers=headers)
        if behaviour.hang_up_after and transport is not None:
            asyncio.get_running_loop().call_later(0.02, transport.close)
        return response

    def _look_for_faults(self, asked: Asked) -> None:
        asked_before = self._asked_by_operation[asked.saga_id, asked.step, asked.operation]
        for other in asked_before:
            name = f"{asked.operation} of {asked.step} of {asked.saga_id}"
            if other.attempt == asked.attempt:
                self.faults.append(f"attempt {asked.attempt} of the {name} came twice")
            if other.attempt > asked.attempt:
                self.faults.append(f"attempt {asked.attempt} of the {name} came after attempt {other.attempt}")
            if other.key == asked.key and other.body["input"] != asked.body["input"]:
                self.faults.append(f"one key, two inputs for the {name}")
            if other.key.partition("~")[0] != asked.key.partition("~")[0]:
                self.faults.append(f"two keys for the {name}")
        asked_before.append(asked)

    async def _notify(self) -> None:
        async with self.came:
            self.came.notify_all()

    # --- as a process of its own ---

    async def _ledger(self, _: web.Request) -> web.Response:
        counts: dict[str, int] = defaultdict(int)
        for asked in self.asked:
            counts[asked.key] += 1
        return web.json_response({"asked": counts, "done": [asdict(d) for d in self.done], "faults": self.faults})

    async def _script(self, request: web.Request) -> web.Response:
        told = await request.json()
        behaviours = [Behaviour(hold=Hold()) if name == "HELD" else globals()[name] for name in told["behaviours"]]
        operation, saga_id = told.get("operation", ACTION), told.get("saga_id")
        self.on(told["step"], *behaviours, operation=operation, saga_id=saga_id)
        return web.Response(status=204)

    async def _let_go(self, _: web.Request) -> web.Response:
        for hold in self._holds:
            hold.release()
        return web.Response(status=204)


async def main(port: int) -> None:
    async with Participant.serve(port) as participant:
        sys.stdout.write(f"{participant.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
