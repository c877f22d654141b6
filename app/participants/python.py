"""Participants that are Python functions, called in the worker.

An `async` function is cancelled when its time is over. A plain one runs in a thread and cannot be stopped, so its
attempt may run on until its lease is over (`may_run_seconds`); it should look at `call.deadline`.
"""

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson

from app.participants.contract import Attempt, not_sent, readable, too_late, unknown
from app.saga.messages import Outcome, OutcomeKind
from saga_participant import Call, Refused, handlers_of


class ParticipantUnusable(Exception):  # noqa: N818 - a condition of the service, told to a person
    """The module of a Python participant cannot be loaded."""


class _TooLate(Exception):  # noqa: N818 - a condition
    pass


def load_handlers(reference: str, folder: Path | None) -> dict[str, Callable[[Call], Any]]:
    """The functions of a module, named as `package.module`, or as a file beside services.yaml."""
    try:
        module = _load_module(reference, folder)
        handlers = handlers_of(module)
    except ParticipantUnusable:
        raise
    except (Exception, SystemExit) as error:
        raise ParticipantUnusable(
            f"{reference} cannot be imported: {type(error).__name__}: {error}{_hint(error)}"
        ) from error
    if not handlers:
        raise ParticipantUnusable(f"{reference} registers no function with @saga_participant.handler(...)")
    return handlers


def _load_module(reference: str, folder: Path | None) -> ModuleType:
    if not reference.endswith(".py"):
        return importlib.import_module(reference)
    if folder is None:
        raise ParticipantUnusable(f"{reference} is a file, but this process was not given a folder (SAGA_SAGAS_DIR)")
    path = (folder / reference).resolve()
    if not path.is_file():
        raise ParticipantUnusable(f"{path} does not exist")
    # Under a name of its own: two services may both have a `handlers.py`, and neither is ours.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"saga_handlers_{path.stem}_{digest}"
    if (loaded := sys.modules.get(name)) is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ParticipantUnusable(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A handler file may import its neighbours; last, so that they hide nothing.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _hint(error: BaseException) -> str:
    name = getattr(error, "name", None) or ""
    if isinstance(error, ImportError) and name.partition(".")[0] in {"app", "workers", "migrations"}:
        return (
            f" (a package of yours called {name.partition('.')[0]!r} is hidden by the orchestrator's own: import it"
            " under another name, or make the participant a file that stands beside services.yaml)"
        )
    return ""


class PythonParticipant:
    def __init__(
        self, handler: Callable[[Call], Any], threads: Executor, *, max_output_bytes: int, lease_grace_seconds: float
    ) -> None:
        self._handler, self._threads = handler, threads
        self._max_output_bytes, self._lease_grace_seconds = max_output_bytes, lease_grace_seconds
        self._is_async = inspect.iscoroutinefunction(handler)

    async def __call__(self, attempt: Attempt) -> Outcome:
        started = time.monotonic()
        if started > attempt.send_before:
            return too_late()
        outcome = await self._carry_out(attempt, call_of(attempt))
        record = {**outcome.record, "ms": round((time.monotonic() - started) * 1000, 1)}
        return replace(outcome, record=record)

    async def poll(self, attempt: Attempt, url: str) -> Outcome | None:  # noqa: ARG002 - a function has no address
        return None

    async def _carry_out(self, attempt: Attempt, call: Call) -> Outcome:
        future: Any = None
        try:
            async with asyncio.timeout(attempt.timeout_seconds) as limit:
                if self._is_async:
                    result = await self._handler(call)
                else:
                    future = self._threads.submit(self._begin, call, attempt.send_before)
                    result = _result(*await asyncio.wrap_future(future))
                if inspect.isawaitable(result):  # a plain function around an async one
                    result = await result
        except _TooLate:
            return not_sent(f"a thread was free for {attempt.name} only when it was too late to begin")
        except Refused as refusal:
            return Outcome(OutcomeKind.REFUSED, readable(str(refusal) or "refused"))
        except TimeoutError as error:
            if not limit.expired():
                return self._failed(attempt, error)
            return self._timed_out(attempt, future)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return unknown(f"{attempt.name} was cancelled from within")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises is an outcome
            return self._failed(attempt, error)
        return self._succeeded(attempt, result)

    def _begin(self, call: Call, send_before: float) -> tuple[Any, BaseException | None]:
        """In a thread. What was raised is handed over as a value: a future takes no StopIteration."""
        if time.monotonic() > send_before:
            return None, _TooLate()
        try:
            return self._handler(call), None
        except BaseException as error:  # noqa: BLE001
            return None, error

    def _failed(self, attempt: Attempt, error: BaseException) -> Outcome:
        return unknown(f"{attempt.name} raised {type(error).__name__}: {error}")

    def _timed_out(self, attempt: Attempt, future: Any) -> Outcome:
        if self._is_async:
            return unknown(f"{attempt.name} did not return within {attempt.timeout_seconds:g} s and was cancelled")
        # wrap_future has cancelled the future: it is `cancelled` only if no thread had begun it.
        if future is None or future.cancelled():
            return not_sent(f"no thread was free for {attempt.name} within {attempt.timeout_seconds:g} s")
        return unknown(
            f"{attempt.name} did not return within {attempt.timeout_seconds:g} s; its thread goes on",
            may_run_seconds=self._lease_grace_seconds,
        )

    def _succeeded(self, attempt: Attempt, result: Any) -> Outcome:
        try:
            output = orjson.dumps(result)
        except (TypeError, ValueError) as error:
            return unknown(f"{attempt.name} returned what JSON cannot say: {error}")
        if len(output) > self._max_output_bytes:
            return unknown(f"{attempt.name} returned more than is kept of an output")
        return Outcome(OutcomeKind.SUCCEEDED, f"{attempt.name} returned", output=output)


def _result(value: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return value


def call_of(attempt: Attempt) -> Call:
    """What a handler is given."""
    return Call(
        saga_id=attempt.saga_id,
        saga=attempt.saga,
        step=attempt.step,
        operation=attempt.operation,
        attempt=attempt.number,
        input=orjson.loads(attempt.input),
        outputs={step: orjson.loads(output) for step, output in attempt.outputs.items()},
        output=None if attempt.output is None else orjson.loads(attempt.output),
        idempotency_key=attempt.key,
        deadline=attempt.deadline,
        callback_url=attempt.callback_url,
        traceparent=attempt.traceparent,
    )
