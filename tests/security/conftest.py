"""The API of tests/api, for those who wish it ill."""

from tests.api.conftest import api, app_state, served, world

__all__ = ["api", "app_state", "served", "world"]
