"""The parts of the house as processes: what `saga api`, `worker`, `beat` and `migrate` run."""

import contextlib
import gc
import os
import socket
import sys
import warnings
from typing import Any, Final

from app import observability
from app.errors import DatabaseUnavailable
from app.settings import Settings
from app.store.database import unreachable

STARTUP_FAILED: Final = 3  # as uvicorn's own command ends
EX_UNAVAILABLE: Final = 69  # sysexits.h: a service is not available


def migrate(settings: Settings) -> None:
    """Brings the database to the newest schema; DatabaseUnavailable where it does not answer."""
    from alembic import command  # noqa: PLC0415 - slow to import, and only this part needs it
    from alembic.config import Config  # noqa: PLC0415

    import migrations  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", next(iter(migrations.__path__)))
    config.attributes["url"] = settings.database_url
    try:
        command.upgrade(config, "head")
    except Exception as error:
        if unreachable(error):
            raise DatabaseUnavailable(error) from error
        raise


def worker(settings: Settings, *, queues: str | None = None) -> None:
    """A Celery worker on our pool, until it is told to end."""
    observability.configure_logging()
    os.environ["CELERY_CUSTOM_WORKER_POOL"] = "workers.pool:AsyncioPool"
    # Celery's own module is the root here: `app` imports nothing of `workers`, it only names it.
    celery = _celery_app()
    observability.serve_metrics(settings)
    from celery.exceptions import SecurityWarning  # noqa: PLC0415

    # Celery warns of root, because of what pickled messages could do; ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    running = celery.Worker(
        hostname=f"{os.getpid()}@{socket.gethostname()}",
        pool_cls="workers.pool:AsyncioPool",
        concurrency=settings.worker_slots,
        queues=queues,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    running.start()
    sys.exit(running.exitcode)


def beat(settings: Settings) -> None:
    """Celery beat: it starts a sweep every `SAGA_SWEEP_INTERVAL`."""
    observability.configure_logging()
    del settings
    _celery_app().Beat(scheduler_cls="workers.beat:SweepScheduler", loglevel="WARNING", quiet=True).run()


def _celery_app() -> Any:
    from importlib import import_module  # noqa: PLC0415

    return import_module("workers.celery_app").app


def api(settings: Settings) -> None:
    """The HTTP API under uvicorn."""
    import uvicorn  # noqa: PLC0415

    from app.api.server import protocol  # noqa: PLC0415

    observability.configure_logging()
    config = uvicorn.Config(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=protocol(settings),
        ws="none",
        access_log=False,
        log_level="warning",
        log_config=None,  # uvicorn's errors are told as ours are
        timeout_graceful_shutdown=10,
        # Longer than clients keep a connection: where the server is the first to close, a request can go into it.
        timeout_keep_alive=75,
        server_header=False,
    )
    config.load()
    # What stands now stands until the end. To go through it in search of garbage would stop every request for 150 ms.
    gc.collect()
    gc.freeze()
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)
