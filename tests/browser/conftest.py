"""The dashboard in a real browser: Debian's Chromium, driven by Playwright, on a whole house of real processes.

def test_something(page, place): ...          # an admin who has logged in, on the landing page
def test_something(log_in): page = log_in("viewer")

Every page that a test has opened must have logged nothing to its console. `shoot` keeps pictures in artifacts/.
Tests share the house: each looks at the sagas that it has started, and leaves no participant told.
"""

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.acceptance.house import RunningHouse, house

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "artifacts" / "screenshots"
PASSWORD = "a password for tests"
PATIENCE_MS = 20_000
"""How long a page may take to show what it should; it passes as soon as it does."""
ROLES = ("viewer", "operator")
LIGHT, DARK, PHONE = "light", "dark", "phone"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=PATIENCE_MS)

SERIOUS = {"serious", "critical"}

DEFINITIONS = {
    "order": {
        "name": "order",
        "timeout": "15m",
        "steps": [
            {
                "name": "reserve-inventory",
                "service": "inventory",
                "action": "reserve",
                "compensation": "release",
                "compensation_retry": {"max_attempts": 1},
            },
            {
                "name": "charge-payment",
                "service": "payment",
                "action": "charge",
                "compensation": "refund",
                "timeout": "60s",
                "retry": {"max_attempts": 3, "initial_delay": "100ms"},
            },
            {"name": "confirm-order", "service": "order", "action": "confirm", "compensation": "cancel"},
        ],
    },
    "careful": {
        "name": "careful",
        "timeout": "15m",
        "steps": [
            {"name": "reserve", "service": "inventory", "action": "reserve", "compensation": "release"},
            {
                "name": "charge",
                "service": "payment",
                "action": "charge",
                "compensation": "refund",
                "retry": {"max_attempts": 1},
                "on_exhausted": "pause",
            },
        ],
    },
    "order-events": {
        "name": "order-events",
        "type": "choreography",
        "started_by": "OrderPlaced",
        "correlation": "data.order_id",
        "timeout": "10m",
        "steps": [
            {
                "name": "Reserve",
                "service": "inventory",
                "trigger": "OrderPlaced",
                "succeeded": "Reserved",
                "failed": "ReservationFailed",
                "compensated": "Released",
                "timeout": "5m",
            },
            {
                "name": "Pay",
                "service": "payment",
                "trigger": "Reserved",
                "succeeded": "Paid",
                "failed": "PaymentFailed",
                "compensated": "Refunded",
                "timeout": "5m",
            },
        ],
    },
}


class Place:
    """A house that runs, its key, and a participant that plays every service as it is told."""

    def __init__(self, running: RunningHouse, participant: str) -> None:
        self.running, self.participant = running, participant
        self._keys = 0

    @property
    def url(self) -> str:
        return self.running.url

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """By the API, with the key of every scope."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Authorization": f"Bearer {self.running.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def tell(self, step: str, *behaviours: str, operation: str = "action", saga_id: str | None = None) -> None:
        """How the next requests for that step are answered: names of tests.participant's constants."""
        self._post("/script", {"step": step, "operation": operation, "saga_id": saga_id, "behaviours": behaviours})

    def release(self) -> None:
        """What was HELD goes on."""
        self._post("/let-go", {})

    def _post(self, path: str, body: Any) -> None:
        request = urllib.request.Request(
            self.participant + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def start(self, saga: str = "order", key: str | None = None, *, wait: float = 20, **more: Any) -> dict[str, Any]:
        """A saga, once it has come to rest or `wait` seconds have passed."""
        self._keys += 1
        body = {"saga": saga, "input": {"sku": "book", "amount": 1200}, **more}
        prefer = {"Prefer": f"wait={wait}"} if wait else {}
        status, found = self.ask("POST", "/sagas", body, Idempotency_Key=key or f"browser-{self._keys}", **prefer)
        assert status in {200, 202}, found
        return found

    def stuck(self, **more: Any) -> dict[str, Any]:
        """A saga whose payment was refused, and whose stock could not be released."""
        self.tell("charge-payment", "REFUSED")
        self.tell("reserve-inventory", "REFUSED", operation="compensation")
        found = self.start(**more)
        assert found["state"] == "COMPENSATION_FAILED", found
        return found

    def holding(self, **more: Any) -> dict[str, Any]:
        """A saga whose payment could not be made, and which holds for a person: soon."""
        self.tell("charge", "BUSY")
        return self.start("careful", wait=0, **more)

    def happened(self, order: str, *events: str, **data: Any) -> None:
        """On the stream, in this order."""
        for event in events:
            made = {"specversion": "1.0", "id": f"{order}-{event}", "source": "/test", "type": event}
            status, answer = self.ask("POST", "/events", {**made, "data": {"order_id": order, **data}})
            assert status == 202, answer

    def audit(self, saga_id: str) -> list[tuple[str, str, str]]:
        """(who, what, why), the newest first."""
        _, found = self.ask("GET", f"/admin/api/audit?saga_id={saga_id}")
        return [(line["actor"], line["action"], line["reason"]) for line in found["items"]]


@contextlib.contextmanager
def open_place(directory: Path) -> Iterator[Place]:
    sagas = directory / "sagas"
    sagas.mkdir()
    for name, definition in DEFINITIONS.items():
        (sagas / f"{name}.yaml").write_text(json.dumps(definition))
    with participant() as url:
        services = {name: {"url": url} for name in ("inventory", "payment", "order")}
        (sagas / "services.yaml").write_text(json.dumps(services))
        with house(directory, sagas, workers=1, SAGA_ADMIN_PASSWORD=PASSWORD, SAGA_SWEEP_INTERVAL="0.2") as running:
            place = Place(running, url)
            for role in ROLES:
                status, made = place.ask("POST", "/admin/api/users", {"name": role, "role": role, "password": PASSWORD})
                assert status == 201, made
            yield place


@contextlib.contextmanager
def participant() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-m", "tests.participant"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    done = subprocess.run(
        [ROOT / "scripts" / "need-chromium"], check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=done.stdout.strip(), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_place(tmp_path_factory.mktemp("house")) as place:
        yield place


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


class Console:
    """What the pages of a test have said that nobody should have to read."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.expected: set[str] = set()
        """Parts of lines that the test means to cause."""

    def listen(self, page: Page) -> None:
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self._said("error", str(error)))

    def _said(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not any(part in text for part in self.expected):
            self.lines.append(f"{kind}: {text}")


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    yield console
    assert console.lines == []


@pytest.fixture
def new_page(browser: Browser, place: Place, console: Console) -> Iterator[Callable[..., Page]]:
    """A page of a browser that nobody has used, anywhere in the house. Takes the options of Playwright's contexts."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Page:
            context = browser.new_context(base_url=place.url, **{"viewport": WIDE, **options})
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            console.listen(page)
            return page

        yield make


@pytest.fixture(scope="session")
def sessions() -> dict[str, Any]:
    """The cookies of those who have logged in."""
    return {}


@pytest.fixture
def log_in(new_page: Callable[..., Page], sessions: dict[str, Any]) -> Callable[..., Page]:
    """By the form for the first time; then the session goes on."""

    def enter(name: str = "admin", **options: Any) -> Page:
        if name not in sessions:
            page = new_page()
            page.goto("/admin/login")
            fill_in_login(page, name)
            page.wait_for_url("**/admin/")
            sessions[name] = page.context.storage_state()
        page = new_page(**options, storage_state=sessions[name])
        page.goto("/admin/")
        return page

    return enter


@pytest.fixture
def page(log_in: Callable[..., Page]) -> Page:
    return log_in()


def fill_in_login(page: Page, name: str, password: str = PASSWORD) -> None:
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", password)
    page.click("main button[type=submit]")


def shoot(page: Page, name: str) -> None:
    """Pictures of the whole page: light, dark, and as a phone shows it; and axe finds nothing serious in any."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for look, scheme, size in ((LIGHT, "light", WIDE), (DARK, "dark", WIDE), (PHONE, "light", NARROW)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        page.screenshot(path=PICTURES / f"{name}-{look}.png", full_page=True)
        check_accessible(page, f"{name}, {look}")
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{name}, {look}: the page is {wider} px wider than the window"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)


def check_accessible(page: Page, what: str) -> None:
    found = Axe().run(page).response["violations"]
    serious = [fault for fault in found if fault["impact"] in SERIOUS]
    told = [(fault["id"], [node["html"][:200] for node in fault["nodes"]][:5]) for fault in serious]
    assert told == [], f"{what}: {told}"
