"""Every error of the commands that speak HTTP: one sentence on stderr, nothing on stdout, no traceback."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.local.directory import RunningHouse
from app.local.locks import lock_file
from tests.cli.conftest import Run, command, environ, no_traceback
from tests.cli.fake import ID, FakeApi, Says, a_saga, page, problem

SHOW = f"GET /sagas/{ID}"

ANSWERS: dict[str, tuple[Says, str]] = {
    "a problem": (
        problem(404, "saga-not-found", "There is no such saga."),
        "There is no such saga. (saga-not-found)",
    ),
    "several faults": (
        problem(422, "request-invalid", "The request is wrong.", ("input.sku", "is missing"), ("", "is too long")),
        "The request is wrong. (request-invalid)\n  input.sku: is missing\n  is too long",
    ),
    "no key": (
        problem(401, "unauthorized", "An API key is needed."),
        (
            "An API key is needed. (unauthorized) Set SAGA_API_KEY; `saga up` keeps the first key in credentials.json"
            " of its --data."
        ),
    ),
    "a scope that is missing": (
        problem(403, "scope-missing", "This key lacks the scope admin."),
        "This key lacks the scope admin. (scope-missing)",
    ),
    "a problem of the server": (
        problem(503, "database-unavailable", "PostgreSQL does not answer."),
        "PostgreSQL does not answer. (database-unavailable)",
    ),
    "a problem that wants to write to the terminal": (
        problem(409, "evil", "one\x1b[2J\ntwo"),
        "one\\x1b[2J two (evil)",
    ),
    "a problem without a detail": (
        Says(500, {"code": "internal-error"}),
        "internal-error (internal-error)",
    ),
    "a page of a proxy": (
        Says(502, "<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
        "{url} answers 502 Bad Gateway, and not as a saga API would; start one with `saga up`, or set SAGA_URL.",
    ),
    "an error of another API": (
        Says(404, {"detail": "Not Found"}),
        "{url} answers 404 Not Found, and not as a saga API would; start one with `saga up`, or set SAGA_URL.",
    ),
    "an error that says that it is JSON": (
        Says(500, "{", {"Content-Type": "application/json"}),
        (
            "{url} answers 500 Internal Server Error, and not as a saga API would; start one with `saga up`, or set"
            " SAGA_URL."
        ),
    ),
    "a redirect": (
        Says(302, "", {"Location": "https://login.example/"}),
        (
            "{url} sends us on to https://login.example/, which a saga API would not; start one with"
            " `saga up`, or set SAGA_URL."
        ),
    ),
    "a page of another server": (
        Says(200, "<html>Welcome</html>", {"Content-Type": "text/html"}),
        "{url} does not answer as a saga API would; start one with `saga up`, or set SAGA_URL.",
    ),
    "another JSON": (
        Says(200, {"hello": "world"}),
        "{url} does not answer as a saga API would; start one with `saga up`, or set SAGA_URL.",
    ),
    "a connection that breaks": (
        Says(cuts=True),
        (
            "{url} broke the connection: no answer came; whether it was done is not known: look with `saga show` or"
            " `saga list`."
        ),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_server_answers_becomes_a_sentence(api: FakeApi, run: Run, name: str) -> None:
    says, sentence = ANSWERS[name]
    api.answers[SHOW] = says
    result = run("show", ID)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {sentence.replace('{url}', api.url)}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", ID],
        ["list"],
        ["definitions"],
        ["services"],
        ["dead-letters"],
        ["cancel", ID],
        ["start", "order", "--key", "k"],
        ["start", "order", "--key", "k", "--wait"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("body", ["<html>", [], {"items": 1}, {"id": 1}, None, "null", '"text"'], ids=repr)
def test_no_answer_of_a_stranger_breaks_a_command(api: FakeApi, run: Run, arguments: list[str], body: object) -> None:
    """A wrong SAGA_URL may lead anywhere."""
    strange = Says(200, body)
    api.answers |= dict.fromkeys(
        [
            *[SHOW, f"{SHOW}/events", "GET /sagas", "GET /definitions", "GET /services", "POST /sagas"],
            *["GET /admin/api/dead-letters", f"POST /sagas/{ID}/cancel"],
        ],
        strange,
    )
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {api.url} does not answer as a saga API would; start one with `saga up`, or set SAGA_URL.\n"
    )


def test_a_submit_whose_connection_breaks_may_be_said_again(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = Says(cuts=True)
    result = run("start", "order", "--key", "k")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {api.url} broke the connection: no answer came; whether it was started is not known. Say the same"
        " again: its key makes it one saga.\n"
    )


def test_a_saga_goes_on_when_its_waiter_is_cut_off(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.sagas.PAUSE_SECONDS", 0)
    for says, sentence in (
        (Says(cuts=True), f"{api.url} broke the connection: no answer came."),
        (problem(503, "database-unavailable", "PostgreSQL does not answer"), "PostgreSQL does not answer."),
    ):
        api.answers["POST /sagas"] = [Says(202, a_saga()), says]
        result = run("start", "order", "--key", "k", "--wait")
        assert result.exit_code == 1
        assert result.stderr == f"Error: {sentence} The saga goes on: saga show {ID}\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_listens(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("SAGA_URL", url)
    for arguments in (["show", ID], ["start", "order", "--key", "k"], ["list"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.stderr == (
            f"Error: cannot reach {url}: Connection refused; start one with `saga up`, or set SAGA_URL.\n"
        )


def test_a_server_that_is_silent_is_given_up(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.server.ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("SAGA_URL", url)
        result = run("show", ID)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {url} did not answer within 0.05 s; whether it was done is not known: look with `saga show` or"
        " `saga list`.\n"
    )


def test_what_is_not_http_is_told(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        monkeypatch.setenv("SAGA_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        result = run("show", ID)
        thread.join()
    assert result.exit_code == 1
    assert "220 mail.example" in result.stderr
    assert no_traceback(result.stderr)


def test_https_where_the_server_speaks_http_is_told(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGA_URL", api.url.replace("http:", "https:"))
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot reach https://127.0.0.1:")
    assert no_traceback(result.stderr)


@pytest.mark.parametrize(
    "url",
    ["foo", "ftp://127.0.0.1", "http://", "http://[::1", "http://127.0.0.1:port", "http://127.0.0.1:99999", "//x", ":"],
)
def test_an_address_that_is_none_is_told(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SAGA_URL", url)
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr.endswith("is not an address such as http://127.0.0.1:8000.\n")


def test_a_password_in_an_address_is_not_repeated(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"http://me:hunter2@127.0.0.1:{free_port()}", "ftp://me:hunter2@host"):
        monkeypatch.setenv("SAGA_URL", url)
        assert "hunter2" not in run("list").output


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid", f"http://{'a' * 70}.invalid", "http://..", "http://ü..ü"]
)
def test_a_host_that_is_not_known_is_told(alone: None, run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SAGA_URL", url)
    result = run("list")
    assert result.exit_code == 1
    assert "cannot reach http://" in result.stderr


@pytest.mark.parametrize("key", ["a b", "schlüssel", "a\nb", "a\x00b".replace("\x00", "\x01")])
def test_a_key_that_can_be_none_is_told_and_not_repeated(
    alone: None, run: Run, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SAGA_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SAGA_API_KEY", key)
    result = run("list")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: The API key (SAGA_API_KEY, or credentials.json of --data) holds characters that no key has.\n",
    )


def test_an_unknown_command_or_option_is_a_matter_of_usage(alone: None, run: Run) -> None:
    for arguments in (["nonsense"], ["list", "--nonsense"], ["show"], ["list", "--limit", "0"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Usage: saga" in result.stderr


# --- whose API --------------------------------------------------------------------------------------------------


@pytest.fixture
def house(server: FakeApi, alone: None, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A house that runs in a directory, as its files tell."""
    locks: list[int | None] = []
    server.forget()
    server.answers["GET /sagas"] = page()

    def stands(name: str) -> Path:
        data = tmp_path / name
        data.mkdir()
        (data / "credentials.json").write_text(json.dumps({"api_key": f"key.of-{name}"}))
        locks.append(lock_file(data / "lock"))
        RunningHouse(server.url, 1, "2026-11-21T22:00:00+00:00", True, "-", "-").tell(data)
        return data

    yield stands
    for lock in locks:
        os.close(lock)


def test_without_an_address_it_is_the_house_of_this_directory(
    house: Callable[[str], Path], server: FakeApi, run: Run
) -> None:
    house(".saga")
    assert run("list").stdout == "There is no saga yet.\n"
    assert server.asked[0].headers["authorization"] == "Bearer key.of-.saga"


def test_a_house_that_is_named_comes_before_the_environment(
    house: Callable[[str], Path], server: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SAGA_API_KEY", "key.of-production")
    assert run("list", "--data", str(house("named"))).exit_code == 0
    assert server.asked[0].headers["authorization"] == "Bearer key.of-named"


def test_the_environment_comes_before_the_house_of_this_directory(
    house: Callable[[str], Path], server: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    house(".saga")
    monkeypatch.setenv("SAGA_URL", server.url)
    assert run("list").exit_code == 0
    assert "authorization" not in server.asked[0].headers, "the key of one house is for no other server"


def test_a_named_house_is_named_in_what_is_suggested(house: Callable[[str], Path], server: FakeApi, run: Run) -> None:
    data = house("here")
    server.answers["POST /sagas"] = Says(202, a_saga())
    assert f"saga show {ID} --data {data}" in run("start", "order", "--key", "k", "--data", str(data)).stdout


def test_no_house_runs_there(alone: None, run: Run) -> None:
    result = run("list", "--data", "some where")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: No house runs on some where: start it with `saga up --data 'some where'`.\n",
    )


def test_the_key_of_a_killed_house_is_sent_to_nobody(
    house: Callable[[str], Path], server: FakeApi, run: Run, tmp_path: Path
) -> None:
    """Its port may be another program's by now."""
    data = tmp_path / "dead"
    data.mkdir()
    (data / "lock").touch()
    (data / "credentials.json").write_text('{"api_key": "key.of-the-dead"}')
    RunningHouse(server.url, 1, "-", True, "-", "-").tell(data)
    assert run("list", "--data", str(data)).exit_code == 1
    assert server.asked == []


# --- as processes -----------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error(api: FakeApi) -> None:
    """`saga list | head -1`"""
    api.answers["GET /sagas"] = page(*[a_saga()] * 200)
    process = subprocess.Popen(
        command("list", "--limit", "200"),
        env=environ(SAGA_URL=api.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert no_traceback(process.stderr.read())
    process.stderr.close()
    process.wait(10)


def test_an_old_terminal_gets_what_it_can_show(api: FakeApi) -> None:
    api.answers["GET /sagas"] = page(a_saga(idempotency_key="straße-Ω"))
    done = subprocess.run(
        command("list"),
        env=environ(SAGA_URL=api.url, PYTHONIOENCODING="latin-1"),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert "straße-\\u03a9" in done.stdout.decode("latin-1")


def test_it_answers_at_once_without_the_heavy_libraries(api: FakeApi) -> None:
    """Celery, SQLAlchemy and FastAPI would take a second to load."""
    api.answers |= {SHOW: Says(200, a_saga()), f"{SHOW}/events": page()}
    script = (
        "import sys\nfrom app.cli import saga\n"
        "saga(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'celery', 'kombu', 'sqlalchemy', 'fastapi', 'pydantic', 'aiohttp', 'asyncio', 'redis', 'asyncpg',\n"
        "         'prometheus_client', 'yaml', 'ruamel', 'alembic'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    for arguments in (["--help"], ["show", ID], ["list", "--json"], ["retry", "--help"]):
        api.answers["GET /sagas"] = page()
        done = subprocess.run(
            [*command()[:2], "-c", script, *arguments],
            env=environ(SAGA_URL=api.url),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
