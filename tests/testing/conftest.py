"""The kit's fixture, whether or not this environment knows its entry point yet."""

from app.pytest_plugin import saga_run

__all__ = ["saga_run"]
