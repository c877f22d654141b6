"""docs/security.md, docs/operations.md and the settings say the same defaults."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
LIMITS = [
    name
    for name in Settings.model_fields
    if name.startswith("max_") or name in {"body_timeout", "rate_limit", "rate_window"}
]


def shown(default: float) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("page", ["security.md", "operations.md"])
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_and_its_default_are_documented(page: str, name: str) -> None:
    lines = [
        line
        for line in (DOCS / page).read_text().splitlines()
        if line.startswith("|") and f"`SAGA_{name.upper()}`" in line
    ]
    assert len(lines) == 1
    default = Settings.model_fields[name].default
    assert re.search(rf"\b{shown(default)}\b", lines[0].split("|", 3)[3] if page == "security.md" else lines[0])
