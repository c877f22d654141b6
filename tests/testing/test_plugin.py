"""The plugin in a pytest of its own, and what the documentation shows."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from .definitions import ORDER

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the plugin, however this environment was installed."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    plain = ["-q", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plain, "-p", "app.pytest_plugin", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_a_failed_test_shows_the_timeline_of_each_of_its_runs(tmp_path: Path):
    (tmp_path / "order.yaml").write_text(ORDER)
    (tmp_path / "test_it.py").write_text(
        """
def test_fails(saga_run):
    saga_run("order.yaml", {"total": 1}).go()
    run = saga_run("order.yaml", {"total": 1})
    run.step("charge").refuses(402, "card declined")
    assert run.go().state == "COMPLETED"

def test_succeeds(saga_run):
    assert saga_run("order.yaml").go().state == "COMPLETED"

def test_fails_without_any():
    assert False
"""
    )
    ran = pytest_in(tmp_path)
    assert "2 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert ran.stdout.count("saga timeline") == 2
    assert re.search(r"0\.02 s +charge +attempt 1 +REFUSED +payment answered 402: card declined", ran.stdout)


def test_the_plugin_imports_nothing_of_the_kit_by_itself():
    names = ["app.testing", "app.saga.machine", "aiohttp", "orjson"]
    program = f"import sys, app.pytest_plugin; sys.exit(', '.join(set({names}) & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_kit_imports_no_server():
    names = ["sqlalchemy", "asyncpg", "redis", "celery", "kombu", "fastapi", "app.store", "app.engine", "app.broker"]
    program = (
        "import sys; from app.testing import Run\n"
        f"Run({ORDER!r}, {{'total': 1}}).go()\n"
        f"sys.exit(', '.join(set({names}) & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_package_offers_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"saga": "app.pytest_plugin"}


def test_the_tests_of_the_documentation_pass(tmp_path: Path):
    (definition,) = blocks("yaml")
    (tmp_path / "sagas").mkdir()
    (tmp_path / "sagas" / "order.yaml").write_text(definition)
    tests = blocks("python")
    for number, test in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(test)
    ran = pytest_in(tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = sum(test.count("\ndef test_") + test.startswith("def test_") for test in tests)
    assert f"{written} passed" in ran.stdout


def test_the_documented_timeline_is_what_is_printed(tmp_path: Path):
    (definition,) = blocks("yaml")
    (tmp_path / "sagas").mkdir()
    (tmp_path / "sagas" / "order.yaml").write_text(definition)
    first = blocks("python")[0].replace("result.assert_undone", "print(result.timeline)\n    result.assert_undone")
    (tmp_path / "test_first.py").write_text(first)
    ran = pytest_in(tmp_path, "-s")
    (timeline,) = blocks("text")
    assert timeline in ran.stdout


def test_the_tests_of_the_example_pass():
    ran = pytest_in(ROOT / "examples" / "order")
    assert ran.returncode == 0, ran.stdout + ran.stderr
