"""What is said when the house stands: where everything is, and how to start a first saga."""

import contextlib
import re
from pathlib import Path

from app.local.credentials import credentials_in


def welcome(url: str, data: Path, sagas: Path | None, seconds: float) -> str:
    return (
        f"\nThe house stands after {seconds:.1f} s.\n"
        f"  API          {url}\n"
        f"  Docs         {url}/docs\n"
        f"  Dashboard    {url}/admin/login (user admin, password in credentials.json)\n"
        f"  Credentials  {credentials_in(data)} (the API key, and the password)\n"
        f"  Logs         {data / 'logs'}\n\n"
        f"{_first_step(data, sagas)}\n"
        f"Ctrl-C ends it all and keeps the data.\n"
    )


def _first_step(data: Path, sagas: Path | None) -> str:
    first = _first_definition(sagas)
    if first is None:
        return "There is no definition yet: put some into a directory and say `saga up --sagas DIRECTORY`."
    here = "" if data == Path(".saga").absolute() else f" --data {data}"
    return f"Start a first saga in another terminal:\n  saga start {first} --input '{{}}' --key first --wait{here}"


def _first_definition(sagas: Path | None) -> str | None:
    """The name in the first file. Only for a hint, so it is not parsed: the API says what is wrong with it."""
    for path in sorted(sagas.glob("*.y*ml")) if sagas is not None else []:
        with contextlib.suppress(OSError, ValueError):
            if found := re.search(r"^name:\s*['\"]?([\w-]+)", path.read_text(), re.MULTILINE):
                return found[1]
    return None
