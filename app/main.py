"""Root of the HTTP API: `uvicorn app.main:app`.

The process takes requests as soon as it stands, also while the database is away or not migrated: then it says so
(`/readyz`, and 503 to the rest), and registers the sagas folder when it can. What is wrong in that folder ends it.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Final

import asyncpg
from fastapi import FastAPI

from app.api import (
    audit,
    callbacks,
    definitions,
    events,
    keys,
    letters,
    notices,
    operations,
    problems,
    repair,
    sagas,
    services,
    users,
)
from app.api.limiter import RateLimit
from app.api.operations import Scrapes
from app.api.waiting import Waiting
from app.dashboard import PAGES
from app.dashboard.access import send_to_the_login
from app.errors import DatabaseUnavailable
from app.house import House, open_house
from app.input_schema import InputSchemas
from app.keys import Keys
from app.observability import log
from app.registration import RegistrationFailed, read_folder, register_folder
from app.settings import Settings, get_settings
from app.store.database import caused_by

ROUTERS: Final = (
    sagas.router,
    callbacks.router,
    events.router,
    definitions.router,
    services.router,
    repair.router,
    letters.router,
    notices.router,
    audit.router,
    keys.router,
    users.router,
    operations.router,
)
AGAIN_SECONDS: Final = 1.0


def make_app(settings: Settings | None = None) -> FastAPI:
    """Settings are read when the application starts, unless they are given."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ours = settings or get_settings()
        async with open_house(ours) as house:
            state = app.state
            state.house, state.keys, state.schemas = house, Keys(ours, house.api_keys), InputSchemas()
            state.reading = asyncio.Semaphore()
            state.waiting, state.scrapes = Waiting(house.sagas, ours.redis_url), Scrapes(house)
            state.registering, state.rate_limit = Registering(house), RateLimit(ours)
            await state.registering.start()
            try:
                with _on_signal_to_end(state.waiting.leave):
                    yield
            finally:
                await state.registering.close()
                await state.rate_limit.close()
                await state.waiting.close()
                await state.keys.close()

    app = FastAPI(
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    send_to_the_login(app)
    for router in (*ROUTERS, *PAGES):
        # Not `include_router`, which sends each request through one router more.
        app.router.routes.extend(router.routes)
    app.state.routers = ROUTERS
    return app


@contextlib.contextmanager
def _on_signal_to_end(leave: Callable[[], None]) -> Iterator[None]:
    """Calls `leave` before whoever handles SIGTERM and SIGINT: the server waits for its requests, and they wait too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(leave)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


class Registering:
    """The sagas folder on its way into the registry."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._task: asyncio.Task[None] | None = None
        self.sentence: str | None = None
        """Why the folder is not registered yet."""

    async def start(self) -> None:
        """Raises RegistrationFailed. Where the database is not ready it goes on in the background."""
        folder = self._house.settings.sagas_dir
        if folder is None:
            return
        read_folder(folder).definitions(None)  # what is wrong with the files themselves needs no database
        if not await self._try():
            self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        try:
            registered = False
            while not registered:
                await asyncio.sleep(AGAIN_SECONDS)
                registered = await self._try()
        except RegistrationFailed as error:
            log.error("%s", error)
            self.sentence = f"The definitions in {self._house.settings.sagas_dir} are refused: {error}"

    async def _try(self) -> bool:
        house = self._house
        folder = house.settings.sagas_dir
        assert folder is not None
        try:
            changed, new = await register_folder(folder, house.definitions, house.services)
        except Exception as error:
            if not isinstance(error, DatabaseUnavailable) and not caused_by(error, asyncpg.UndefinedTableError):
                raise
            if self.sentence is None:
                log.warning("%s is registered when the database is ready: %s", folder, error)
            self.sentence = f"The definitions in {folder} are not registered yet."
            return False
        log.info("registered from %s: services %s; definitions %s", folder, changed or "none", new or "none")
        self.sentence = None
        return True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


app = make_app()
