"""Whether the lock files hold every dependency of pyproject.toml, with hashes and without addresses."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> set[str]:
    text = path.read_text()
    if re.search(r"https?://|--index-url|--find-links", text):
        sys.exit(f"{path.name} names an address: run `make lock`")
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==\S+(.*)$", text, re.MULTILINE)
    if text.count("--hash=sha256:") < len(pinned):
        sys.exit(f"{path.name} lacks hashes: run `make lock`")
    return {normal(name) for name, _ in pinned}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"requirements-image.lock": project["dependencies"]}
    needed["requirements.lock"] = sum(project["optional-dependencies"].values(), project["dependencies"])
    for name, requirements in needed.items():
        names = {normal(re.match(r"[A-Za-z0-9_.-]+", requirement)[0]) for requirement in requirements}
        if missing := sorted(names - locked(ROOT / name)):
            sys.exit(f"{name} lacks {', '.join(missing)}: run `make lock`")


if __name__ == "__main__":
    main()
