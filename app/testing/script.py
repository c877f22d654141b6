"""What a participant does, in the words of a test: `run.step("charge").fails(503, on=1).answers({"id": 1})`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import orjson

On: TypeAlias = int | Collection[int] | None

CALL_SECONDS: Final = 0.01
"""How long a call takes where the script says nothing."""


class How(Enum):
    ANSWERS = auto()
    IS_SILENT = auto()
    BREAKS = auto()
    """The connection ends before the answer."""
    UNREACHABLE = auto()
    LOSES_WORKER = auto()


@dataclass(frozen=True, slots=True)
class Callback:
    """What is told of an attempt that was accepted."""

    after_seconds: float
    output: Any = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a participant does with one attempt."""

    how: How = How.ANSWERS
    status: int = 200
    body: Any = None
    """JSON, or a function from the `Call` to it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    took_effect: bool = False
    """Although nothing says so; what is answered as done has always taken effect."""
    callback: Callback | None = None


class Script:
    """Of one operation of one step. What is said without `on` holds for every attempt that `on` does not name.

    `on` is the number of an attempt, the first is 1, or several: `on=2`, `on=(1, 3)`, `on=range(1, 5)`. What is said
    later wins. Where nothing is said the participant answers 200 and null.

    Participants behave well: they honour the idempotency key, so that a call which is repeated after its effect
    changes nothing, and an action that comes after its own compensation does nothing.
    """

    def __init__(self) -> None:
        self.seconds = CALL_SECONDS
        self._always: Reaction | None = None
        self._on: tuple[tuple[Collection[int], Reaction], ...] = ()

    # --- it answers ---

    def answers(self, output: Any = None, *, status: int = 200, on: On = None) -> "Script":
        """Done. `output` is what JSON can say, or a function from the `Call` (saga_participant) to that.

        A function is not asked again for a key that has taken effect. It may raise `saga_participant.Refused`; anything
        else that it raises ends the test.
        """
        if not 200 <= status < 300 or status == 202:
            raise ValueError(
                f"{status} does not say that it is done; there are refuses(), fails(), answers_later() and responds()"
            )
        return self.responds(status, output, on=on)

    def refuses(
        self,
        status: int = 422,
        message: str = "",
        *,
        retriable: bool | None = None,
        on: On = None,
    ) -> "Script":
        """A 4xx: it certainly did not happen. What the definition's `statuses` say of it counts, as in production."""
        if not 400 <= status < 500:
            raise ValueError(f"{status} refuses nothing, only a 4xx does; there are answers() and fails()")
        return self._fault(status, message, retriable, None, False, on)

    def fails(
        self,
        status: int = 503,
        message: str = "",
        *,
        took_effect: bool = False,
        retry_after: int | None = None,
        retriable: bool | None = None,
        on: On = None,
    ) -> "Script":
        """A 5xx, 408, 425 or 429: nobody knows whether it happened; `took_effect` says what is true."""
        if status < 500 and status not in {408, 425, 429}:
            raise ValueError(f"{status} is not a failure of the service, a 5xx is; there are answers() and refuses()")
        return self._fault(status, message, retriable, retry_after, took_effect, on)

    def responds(
        self,
        status: int,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        took_effect: bool = False,
        on: On = None,
    ) -> "Script":
        """Any answer, read as in production."""
        _refuse_unwritable(body)
        return self._say(Reaction(How.ANSWERS, status, body, headers or {}, took_effect), on)

    def answers_later(self, output: Any = None, *, after: float = 1, on: On = None) -> "Script":
        """202, and done by callback so many seconds later."""
        _refuse_unwritable(output)
        return self._say(Reaction(status=202, callback=Callback(after, output)), on)

    def refuses_later(self, message: str = "refused", *, after: float = 1, on: On = None) -> "Script":
        """202, and refused by callback so many seconds later."""
        return self._say(Reaction(status=202, callback=Callback(after, refusal=message)), on)

    def never_calls_back(self, *, took_effect: bool = False, on: On = None) -> "Script":
        """202, and nothing after that."""
        return self._say(Reaction(status=202, took_effect=took_effect), on)

    # --- it does not ---

    def times_out(self, *, took_effect: bool = False, on: On = None) -> "Script":
        """It was sent, and nothing comes within the attempt's timeout."""
        return self._say(Reaction(How.IS_SILENT, took_effect=took_effect), on)

    def loses_the_answer(self, *, took_effect: bool = True, on: On = None) -> "Script":
        """It happens, and the connection breaks before its answer has come."""
        return self._say(Reaction(How.BREAKS, took_effect=took_effect), on)

    def cannot_connect(self, *, on: On = None) -> "Script":
        """No connection can be made: it was certainly not sent."""
        return self._say(Reaction(How.UNREACHABLE), on)

    def loses_its_worker(self, *, took_effect: bool = False, on: On = None) -> "Script":
        """The worker dies between its claim and the answer: the attempt is lost when its lease is over."""
        return self._say(Reaction(How.LOSES_WORKER, took_effect=took_effect), on)

    def takes(self, seconds: float) -> "Script":
        """How long every attempt lasts. One that takes its whole timeout is not answered in time."""
        if seconds < 0:
            raise ValueError("A call cannot take less than no time.")
        self.seconds = seconds
        return self

    # --- for the run ---

    def reaction(self, attempt: int) -> Reaction | None:
        for numbers, reaction in reversed(self._on):
            if attempt in numbers:
                return reaction
        return self._always

    @property
    def usual_output(self) -> Any:
        """What an effect leaves whose answer nobody hears."""
        always = self._always
        return always.body if always is not None and always.how is How.ANSWERS and always.status < 300 else None

    def copy(self) -> "Script":
        script = Script()
        script.seconds, script._always, script._on = self.seconds, self._always, self._on
        return script

    def _say(self, reaction: Reaction, on: On) -> "Script":
        if on is None:
            self._always = reaction
            return self
        numbers = (on,) if isinstance(on, int) else on
        if not numbers or min(numbers) < 1:
            raise ValueError("`on` counts attempts, and the first is 1.")
        self._on = (*self._on, (numbers, reaction))
        return self

    def _fault(
        self,
        status: int,
        message: str,
        retriable: bool | None,
        retry_after: int | None,
        took_effect: bool,
        on: On,
    ) -> "Script":
        problem: dict[str, Any] = {"detail": message} if message else {}
        if retriable is not None:
            problem["retriable"] = retriable
        headers = {"Content-Type": "application/problem+json"}
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        return self.responds(status, problem, headers, took_effect=took_effect, on=on)


def _refuse_unwritable(output: Any) -> None:
    if not callable(output):
        orjson.dumps(output)
