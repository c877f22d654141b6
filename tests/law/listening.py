"""Small choreographed sagas, and a teller that leads one through a story.

The step a listens to `begin`, or to the success of the step that it comes after, and publishes `a.done`, `a.failed` and
`a.undone`. It may be silent for ten seconds, and so may its compensation.
"""

from dataclasses import replace

from app.saga import choreography
from app.saga.definition import Definition, StepEvents
from app.saga.history import fold
from app.saga.messages import Happened, Transition

from .build import ID, T0, TIMING, Tale, a_step, define, policy, through_json

BEGIN = "begin"


def a_listener(name: str, *, after: str | None = None, undone: bool = True, undo_attempts=2, **more):
    compensated = f"{name}.undone" if undone else None
    events = StepEvents(BEGIN if after is None else f"{after}.done", f"{name}.done", f"{name}.failed", compensated)
    step = a_step(name, after=[after] if after else (), compensation=compensated)
    retry = policy(undo_attempts)
    return replace(step, action=events.trigger, events=events, compensation_retry=retry, **more)


def dance(*steps, **more) -> Definition:
    more = {"name": "order", "type": "choreography", "started_by": BEGIN, "correlation": "data.order_id", **more}
    return define(*steps, **more)


def in_a_row(*names: str, **more) -> Definition:
    return dance(*(a_listener(n, after=before) for n, before in zip(names, (None, *names), strict=False)), **more)


class Story(Tale):
    """One saga as the stream tells it, opened by its first event."""

    def __init__(self, definition: Definition, first: str = BEGIN) -> None:
        self.definition, self.now = definition, T0
        self.last = choreography.create(definition, T0, first, saga_id=ID, timing=TIMING)
        self.state = self.last.state
        self.history = list(self.last.records)
        self.letters: list[tuple[str, str]] = []
        assert fold(definition, map(through_json, self.history)) == self.state

    def tell(self, message) -> Transition:
        told = super().tell(message)
        assert told.dispatches == (), "nobody is called"
        asked = [(r.step, r.attempt) for r in told.records if r.type == "CompensationStarted"]
        assert [(r.step, r.attempt) for r in told.requests] == asked
        below = self.definition.downstream
        for place, (step, _) in enumerate(asked):
            assert not any(later in below[step] for later, _ in asked[place:]), "later steps first"
        return told

    def hears(self, *events: str) -> Transition:
        for event in events:
            self.tell(Happened(self.now, event))
        return self.last

    @property
    def asked(self) -> list[str]:
        """The steps that the last message has requests published for, in their order."""
        return [self.definition.steps[request.step].name for request in self.last.requests]
