"""What can be known of the image, the compose file and the monitoring without a Docker engine.

Promised: the files are well formed by the tools and schemas of those who read them, they name only metrics, settings
and commands that exist, and the commands of the image start where nothing but the image's packages is installed.
Not promised: that an engine builds the image and that the containers find each other.

compose-spec.json is the Compose Specification's own schema; compose-spec.origin.txt says where it is from.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from app.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PACKAGES = ("app", "workers", "saga_participant", "migrations")

# Contract, section 7: the metrics and their labels. No other may be named.
HISTOGRAMS = {
    "saga_duration_seconds": {"saga", "state"},
    "saga_step_duration_seconds": {"saga", "step", "operation"},
}
METRICS = {
    "saga_started_total": {"saga"},
    "saga_finished_total": {"saga", "state"},
    "saga_step_attempts_total": {"saga", "step", "operation", "outcome"},
    "saga_active": {"saga", "state"},
    "saga_stuck": set(),
    "saga_attention": {"saga"},
    "saga_dead_letters": {"saga"},
    "saga_notices": {"status"},
    "saga_events_total": {"event", "result"},
    "saga_events_lag": set(),
    "saga_event_deliveries": {"service"},
    "saga_oldest_overdue_seconds": set(),
    "saga_queue_depth": {"queue"},
    "saga_sweep_total": {"result"},
    "saga_build_info": set(),
    **{f"{name}_bucket": {*labels, "le"} for name, labels in HISTOGRAMS.items()},
    **{f"{name}_{part}": labels for name, labels in HISTOGRAMS.items() for part in ("sum", "count")},
}
# Added to every sample by Prometheus itself.
TARGET_LABELS = {"job", "instance"}


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, timeout=600, **more
    )


def succeed(*command: str | Path, **more: Any) -> str:
    done = run(*command, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def missing(reason: str) -> None:
    """CI has to have every tool; elsewhere what a machine lacks is no fault of the project's."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


# The image


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = BIN / "hadolint"
    if not hadolint.exists():
        missing(f"{hadolint} is not there")
    succeed(hadolint, ROOT / "Dockerfile")


def test_the_build_sees_every_file_that_the_dockerfile_copies_and_no_other() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: in the tree it would pick up what an earlier build left in `build`."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    succeed(
        sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", out, cwd=out
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """A template or a style sheet that pyproject.toml does not name is missing in the image alone."""
    here = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        # The template of new migrations, and how the kit is built alone, are of use in the source tree only.
        if path.is_file() and "__pycache__" not in path.parts and path.name not in {"script.py.mako", "pyproject.toml"}
    }
    assert "migrations/env.py" in here
    assert sorted(here - set(zipfile.ZipFile(wheel).namelist())) == []


# The compose file

INTERPOLATION = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\})")


@pytest.fixture(scope="module")
def compose() -> Any:
    return load(ROOT / "docker-compose.yml")


@pytest.fixture(scope="module")
def interpolated() -> Any:
    """As compose sees it where .env gives the required variables and no other."""

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        return "given" if found["how"] == "?" else found["rest"] or ""

    return YAML(typ="safe", pure=True).load(INTERPOLATION.sub(value, (ROOT / "docker-compose.yml").read_text()))


def of_our_image(compose: Any) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if "SAGA_IMAGE" in service["image"]}


def test_the_compose_file_follows_the_specification(interpolated: Any) -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    errors = jsonschema.Draft202012Validator(schema).iter_errors(interpolated)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []
    assert "version" not in interpolated


def test_a_missing_secret_is_said_with_its_name_and_the_example_has_it() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (DEPLOY / "env.example").read_text()
    offered = dict(re.findall(r"^#?(SAGA_\w+)=(.*)$", example, re.MULTILINE))
    used = {found["name"]: found for found in INTERPOLATION.finditer(text) if found["name"]}
    handed_on = set(re.findall(r"^  (SAGA_\w+):$", text, re.MULTILINE))
    assert handed_on | used.keys() == offered.keys()

    required = {name for name, found in used.items() if found["how"] == "?"}
    assert required == set(re.findall(r"^(SAGA_\w+)=$", example, re.MULTILINE)), "empty in the example: to be filled in"
    assert {name for name in used if re.search("PASSWORD|SECRET|KEY", name)} <= required, "no secret has a default"
    assert all("deploy/env.example" in found["rest"] for found in used.values() if found["how"] == "?")
    for name, written in re.findall(r"^(SAGA_\w+)=(.+)$", example, re.MULTILINE):
        assert used[name]["rest"] == written, f"{name}: copied unread, the example changes nothing"


def test_the_service_knows_every_setting_that_it_is_given(compose: Any) -> None:
    known = {f"SAGA_{name}".upper() for name in Settings.model_fields}
    for name, service in of_our_image(compose).items():
        assert service["environment"].keys() <= known, name


def test_ports_are_published_on_loopback_alone(compose: Any) -> None:
    ports = {port for service in compose["services"].values() for port in service.get("ports", ())}
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    assert "ports" not in compose["services"]["worker"], "with a port of the host there is one worker at most"


def test_every_service_has_a_limit_a_restart_policy_and_a_health_check(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        # migrate ends by itself; beat has nothing to ask, and the alert on sweeps watches it.
        assert ("healthcheck" in service) == (name not in {"migrate", "beat"}), name


def test_nothing_starts_before_the_migrations_have_ended(compose: Any) -> None:
    ours = of_our_image(compose)
    assert ours.keys() == {"migrate", "api", "worker", "beat"}
    for name in ours.keys() - {"migrate"}:
        assert ours[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name


def test_what_is_mounted_from_the_tree_is_there(interpolated: Any) -> None:
    for name, service in interpolated["services"].items():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert volume["read_only"] if isinstance(volume, dict) else volume.endswith(":ro"), f"{name}: {source}"
            else:
                assert source in interpolated["volumes"], f"{name}: {source}"


# The commands


def image_commands() -> list[tuple[str, ...]]:
    cmd = re.search(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert cmd
    services = of_our_image(load(ROOT / "docker-compose.yml")).values()
    return sorted({tuple(json.loads(cmd[1])), *(tuple(service["command"]) for service in services)})


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of this machine's: no settings, no PYTHONPATH, no other virtual environment."""
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **more}


@pytest.mark.parametrize("command", image_commands(), ids=" ".join)
def test_the_command_line_knows_every_command_of_the_image(command: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = command
    text = succeed(BIN / "saga", name, "--help", cwd=tmp_path, env=bare_environment(tmp_path))
    assert [option for option in rest if option.startswith("--") and option not in text] == []


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with what the image has and nothing else; the folder with its programs."""
    place = tmp_path_factory.mktemp("clean")
    succeed(sys.executable, "-m", "venv", "--without-pip", place)
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet", "--no-deps")
    # As in the Dockerfile: by hash, and wheels only. --no-deps: the lock file has to be complete by itself.
    succeed(*pip, "--require-hashes", "--only-binary", ":all:", "-r", ROOT / "requirements-image.lock", cwd=place)
    succeed(*pip, "--no-index", wheel, cwd=place)
    return place / "bin"


IMPORT_EVERYTHING = """
import importlib, pkgutil
for root in ("app", "workers", "saga_participant"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, f"{root}."):
        if module.name != "app.pytest_plugin":  # loaded by pytest alone
            importlib.import_module(module.name)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_start_where_only_the_image_is_installed(clean: Path, tmp_path: Path) -> None:
    environment = bare_environment(tmp_path)
    # A module that is imported only when its command runs would hide a dependency that is missing.
    succeed(clean / "python", "-c", IMPORT_EVERYTHING, cwd=tmp_path, env=environment)

    overview = succeed(clean / "saga", "--help", cwd=tmp_path, env=environment)
    commands = re.findall(r"^  (\w[\w-]*)(?:  |$)", overview.partition("Commands:")[2], re.MULTILINE)
    assert {name for name, *_ in image_commands()} <= set(commands)
    for name in commands:
        succeed(clean / "saga", name, "--help", cwd=tmp_path, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_migrate_says_in_one_sentence_that_the_database_does_not_answer(clean: Path, tmp_path: Path) -> None:
    nobody = "postgresql://saga:not-to-be-shown@127.0.0.1:1/saga"
    done = run(clean / "saga", "migrate", cwd=tmp_path, env=bare_environment(tmp_path, SAGA_DATABASE_URL=nobody))
    said = (done.stdout + done.stderr).strip()
    assert done.returncode != 0
    assert len(said.splitlines()) == 1, said
    assert "127.0.0.1" in said, said
    assert "not-to-be-shown" not in said, said


# Prometheus


@pytest.fixture(scope="session")
def promtool() -> Path:
    done = run(ROOT / "scripts" / "need-debian-package", "prometheus", "promtool")
    if done.returncode:
        missing(done.stderr.strip())
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    return [rule for group in load(DEPLOY / "prometheus" / "rules.yml")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules rules.yml", "test rules rules.test.yml"]
)
def test_the_prometheus_files_pass_promtool(command: str, promtool: Path) -> None:
    succeed(promtool, *command.split(), cwd=DEPLOY / "prometheus")


def test_prometheus_looks_where_the_parts_listen() -> None:
    jobs = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    ports = {search["names"][0]: search["port"] for job in jobs for search in job.get("dns_sd_configs", ())}
    fields = Settings.model_fields
    assert ports == {"api": fields["port"].default, "worker": fields["worker_metrics_port"].default}


def test_every_alert_tells_what_happened_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    runbook = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (DEPLOY / "README.md").read_text(), re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert runbook == {name: rule["labels"]["severity"] for name, rule in alerts.items()}
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"]["summary"], name
        assert len(rule["annotations"]["description"]) > 150, f"{name}: what happened, what happens next, what to do"


def test_every_alert_is_seen_to_fire(rules: list[dict[str, Any]]) -> None:
    text = (DEPLOY / "prometheus" / "rules.test.yml").read_text()
    fired = {*re.findall(r'alertname="(\w+)",alertstate="firing"', text), *re.findall(r"- alertname: (\w+)", text)}
    assert fired == {rule["alert"] for rule in rules if "alert" in rule}


# Metrics by name


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "saga.json").read_text())


def dashboard_expressions() -> list[str]:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    return [expression.replace("$__rate_interval", "5m").replace("$saga", ".*") for expression in targets]


def names_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a PromQL expression names, with the labels that it is selected by."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    for name, selector in re.findall(
        r"([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()\s*(\{[^}]*\})?", re.sub(r"\b\d\w*", "", bare)
    ):
        if name not in {"and", "or", "unless", "bool", "offset"}:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def groupings_in(expression: str) -> set[str]:
    found = re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression)
    return {label.strip() for labels in found for label in labels.split(",") if label.strip()}


def unknown_in(expression: str, also: set[str]) -> list[str]:
    """What an expression names that no process of ours will ever show."""
    wrong, labels = [], set(TARGET_LABELS)
    for name, selected in names_in(expression):
        if name in METRICS:
            labels |= METRICS[name]
            wrong += [f"{name}{{{label}}}" for label in selected - METRICS[name] - TARGET_LABELS]
        elif name in also:
            labels |= selected | {"saga", "queue"}
        elif not name.startswith("process_"):
            wrong.append(name)
    return wrong + [f"by ({label})" for label in groupings_in(expression) - labels]


def test_a_name_that_does_not_exist_is_found() -> None:
    wrong = 'sum by (saga, shop) (rate(saga_started{saga=~"x|y"}[5m])) / sum(saga_active{colour="saga_x"}) > 1e3'
    assert sorted(unknown_in(wrong, set())) == ["by (shop)", "saga_active{colour}", "saga_started"]


def test_the_rules_name_only_metrics_that_the_service_has(rules: list[dict[str, Any]]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    wrong = {rule["expr"]: unknown_in(rule["expr"], recorded | {"up"}) for rule in rules}
    assert {expression: names for expression, names in wrong.items() if names} == {}


def test_the_dashboard_names_only_metrics_that_the_service_has() -> None:
    expressions = dashboard_expressions()
    assert len(expressions) > 10
    wrong = {expression: unknown_in(expression, set()) for expression in expressions}
    assert {expression: names for expression, names in wrong.items() if names} == {}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert label in METRICS[metric]


def test_the_expressions_of_the_dashboard_are_promql(promtool: Path, tmp_path: Path) -> None:
    numbered = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(dashboard_expressions())]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": numbered}]}))
    succeed(promtool, "check", "rules", tmp_path / "rules.yml")


def test_the_panels_of_the_dashboard_have_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} lies on {other['title']}"
    first_row = sorted((panel["gridPos"]["x"], panel["title"]) for panel in panels if panel["gridPos"]["y"] == 0)
    assert [title for _, title in first_row] == ["Needs attention", "Stuck", "Oldest overdue", "Active by state"]
