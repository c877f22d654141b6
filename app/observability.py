"""What the house tells about itself: logs and metrics. The only place that instruments.

Counters count what was committed, after the commit, in the process that committed it. Under `saga up` the processes
of the machine share files (`SAGA_METRICS_DIR`), so that a count outlives the process that made it and the API shows
the whole house.
"""

import logging
import os
import threading
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from app.saga.definition import Definition
from app.saga.messages import Outcome, RecordType, Transition
from app.saga.state import SECOND, Operation, State
from app.settings import Settings

log: Final = logging.getLogger("saga")

# prometheus_client decides once, at its import, whether values live in files.
if (_directory := os.environ.get("SAGA_METRICS_DIR")) and not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    Path(_directory).mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _directory

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest  # noqa: E402
from prometheus_client.metrics_core import Metric  # noqa: E402
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

SAGA_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400)
STEP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

started: Final = Counter("saga_started", "Sagas started", ["saga"])
finished: Final = Counter("saga_finished", "Sagas that have reached a final state", ["saga", "state"])
duration: Final = Histogram("saga_duration_seconds", "From created to final", ["saga", "state"], buckets=SAGA_SECONDS)
attempts: Final = Counter("saga_step_attempts", "Attempts that have ended", ["saga", "step", "operation", "outcome"])
step_duration: Final = Histogram(
    "saga_step_duration_seconds",
    "One attempt, as its worker saw it",
    ["saga", "step", "operation"],
    buckets=STEP_SECONDS,
)
events: Final = Counter("saga_events", "Events that the tracker has dealt with", ["event", "result"])
requests: Final = Counter("saga_api_requests", "Requests of known callers", ["tenant", "route", "method", "status"])
sweeps: Final = Counter("saga_sweep", "Sweeps, and what they found", ["result"])


@lru_cache
def our_version() -> str:
    try:
        return version("saga-orchestrator")
    except PackageNotFoundError:  # from a source tree that is not installed
        return "unknown"


def configure_logging(level: str = "INFO") -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Discreet("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("kombu", "alembic.runtime.plugins"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Discreet(logging.Formatter):
    """Of an error it tells the way that it came and its kind, not its words: they quote what was at hand, as
    PostgreSQL does with rows, pydantic with inputs, and a dictionary with a key that it lacks.
    """

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "".join(_told(ei[1], set())).rstrip() if ei[1] is not None else ""


def _told(error: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in told:
        yield from _told(before, told)
        yield "which led to:\n"
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(part) not in told:
            yield from _told(part, told)
            yield "which is part of:\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}{_harmless(error)}\n"


def _harmless(error: BaseException) -> str:
    """What may be told of an error beside its kind: names and numbers."""
    facts = [getattr(error, name, None) for name in ("sqlstate", "table_name", "column_name", "constraint_name")]
    facts += [error.errno, error.strerror] if isinstance(error, OSError) else []
    said = ", ".join(str(fact) for fact in facts if fact)
    return f": {said}" if said else ""


def attempt(definition: Definition, step: int, operation: Operation, outcome: Outcome) -> None:
    name = definition.steps[step].name
    attempts.labels(definition.name, name, operation, str(outcome.kind)).inc()
    if (milliseconds := outcome.record.get("ms")) is not None:
        step_duration.labels(definition.name, name, operation).observe(milliseconds / 1000)


def transition(definition: Definition, state: State, moved: Transition) -> None:
    """Counts what one committed transition changed."""
    if any(record.type is RecordType.SAGA_STARTED for record in moved.records):
        started.labels(definition.name).inc()
    if state.final and state.finished_at is not None:
        finished.labels(definition.name, str(state.state)).inc()
        seconds = (state.finished_at - state.created_at) / SECOND
        duration.labels(definition.name, str(state.state)).observe(seconds)


def event(event_type: str, result: str) -> None:
    """`event_type`: one that a definition names, else "": what anybody publishes is not ours to bound."""
    events.labels(event_type, result).inc()


def request(tenant: str, route: str, method: str, status: int) -> None:
    """`route`: its template, not the path that was asked for."""
    requests.labels(tenant, route, method, str(status)).inc()


def swept(counts: dict[str, int]) -> None:
    for result, count in counts.items():
        if count:
            sweeps.labels(result).inc(count)
    sweeps.labels("run").inc()


def exposition(registry: CollectorRegistry | None = None, *, whole_house: bool = True) -> bytes:
    """The counters as Prometheus text: of all processes of this machine, or of this one alone."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory is None:
        return generate_latest(REGISTRY) + (generate_latest(registry) if registry else b"")
    merged = CollectorRegistry()
    if whole_house:
        MultiProcessCollector(merged, path=directory)  # type: ignore[no-untyped-call]
    else:
        merged.register(_OwnFiles(directory))
    return generate_latest(merged) + (generate_latest(registry) if registry else b"")


class _OwnFiles(Collector):
    """The values of this process alone, of a house whose processes share their files."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._directory.glob(f"*_{os.getpid()}.db")]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return merged


def serve_metrics(settings: Settings) -> None:
    """A worker's own /metrics, on the first free port from `SAGA_WORKER_METRICS_PORT`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = exposition(whole_house=False) if found else b"/metrics is here\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for port in range(settings.worker_metrics_port, settings.worker_metrics_port + 100):
        try:
            server = ThreadingHTTPServer((settings.host, port), Handler)
        except OSError:
            continue
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics of this worker: http://%s:%d/metrics", settings.host, port)
        return
    log.warning("no port from %d on is free: this worker's metrics are not served", settings.worker_metrics_port)


def of_tenant(content: bytes, tenant: str) -> bytes:
    """Of Prometheus text, the series that carry the label of one tenant."""
    label = f'tenant="{tenant}"'
    names = ("saga_api_requests_total", "saga_api_requests_created")
    kept = [
        line
        for line in content.decode().splitlines()
        if (line.startswith("# ") and line.split(" ")[2] in {*names, "saga_api_requests"})
        or (line.startswith(names) and label in line)
    ]
    return "".join(f"{line}\n" for line in kept).encode()
