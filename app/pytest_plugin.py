"""The pytest plugin of the test kit: the fixture `saga_run`, and its runs' timelines in the report of a failed test.

It comes with the package (entry point `pytest11`); `-p no:saga` leaves it out. It stands outside `app.testing` because
every pytest of its environment loads it: the kit is imported by the first test that asks for it.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from app.testing import Run


class SagaRuns:
    """The runs of one test. Called as `app.testing.Run`; a file is looked for beside the test first."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._beside = request.path.parent
        self.runs: list[Run] = []

    def __call__(self, definition: Any, input: Any = None, **options: Any) -> "Run":  # noqa: A002 - the contract's word
        from app.testing import Run  # noqa: PLC0415 - see above

        run = Run(definition, input, beside=self._beside, number=len(self.runs) + 1, **options)
        self.runs.append(run)
        return run


_RUNS = pytest.StashKey[SagaRuns]()


@pytest.fixture
def saga_run(request: pytest.FixtureRequest) -> SagaRuns:
    """`saga_run("sagas/order.yaml", input={...})` is a run of a definition, for `app.testing`."""
    runs = request.node.stash[_RUNS] = SagaRuns(request)
    return runs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (runs := item.stash.get(_RUNS, None)) is not None:
        report.sections += [("saga timeline", run.result().timeline) for run in runs.runs]
    return report
