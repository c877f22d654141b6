"""Signatures and tokens: what is replayed or forged is refused, and secrets are shown to nobody."""

import asyncio
import base64
import logging
import os
import string
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from standardwebhooks import Webhook, WebhookVerificationError

from app.callbacks import AttemptName, make_token, maker, read_token
from app.participants.http import webhook_headers
from app.saga.service import Service
from app.settings import Settings
from saga_participant import Refused
from saga_participant.calls import read_call, verify
from tests.api.conftest import Client, World, api, app_state, served, world  # noqa: F401 - fixtures
from tests.conftest import KEY
from tests.participant import answers
from tests.receiver import Receiver, Told

from .conftest import Browser

OLD, NEW, OTHER = (f"whsec_{base64.b64encode(name * 8).decode()}" for name in (b"old!", b"new!", b"else"))
HEADER_VALUE = "a header value that nobody reads again"
ROOT = Path(__file__).parents[2]

NOT_ASKED = {
    # streams of pages that are asked for
    *("/admin/live", "/admin/sagas/live", "/admin/sagas/{id}/live"),
    # files, and the way to an issuer
    *("/docs/{asset}", "/admin/static/{digest}/{name}", "/admin/login/oidc", "/admin/login/oidc/callback"),
}


class TestNotices:
    def signed_at(self, moment: datetime, secret: str = OLD) -> dict[str, str]:
        headers = {"webhook-id": "n1", "webhook-timestamp": str(int(moment.timestamp()))}
        return headers | {"webhook-signature": Webhook(secret).sign("n1", moment, "{}")}

    def test_a_signed_notice_is_taken(self) -> None:
        assert Webhook(OLD).verify("{}", self.signed_at(datetime.now(UTC))) == {}

    @pytest.mark.parametrize("minutes", [-5.1, 5.1, 60])
    def test_one_that_is_replayed_after_five_minutes_is_refused(self, minutes: float) -> None:
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD).verify("{}", self.signed_at(datetime.now(UTC) - timedelta(minutes=minutes)))

    def test_a_newer_time_written_on_an_old_one_breaks_its_signature(self) -> None:
        old = self.signed_at(datetime.now(UTC) - timedelta(minutes=6))
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD).verify("{}", {**old, "webhook-timestamp": str(int(datetime.now(UTC).timestamp()))})

    def test_while_secrets_are_rotated_each_that_is_known_verifies_it(self) -> None:
        headers = webhook_headers("n1", b"{}", [Webhook(OLD), Webhook(NEW)])
        for secret in (OLD, NEW):
            assert Webhook(secret).verify("{}", headers) == {}
        with pytest.raises(WebhookVerificationError):
            Webhook(OTHER).verify("{}", headers)


class TestANoticeThatWasSent:
    """As its receiver judges it, with what the kit verifies by."""

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"webhook_secret": f"{NEW} {OLD}"}

    @pytest.fixture
    async def told(self, world: World) -> Told:  # noqa: F811
        await world.define({"name": "reserve"})
        async with Receiver.serve() as receiver:
            await world.ran(notify_url=receiver.url)
            assert world.worker.courier is not None
            world.worker.courier.wake()
            return await receiver.until_told()

    def refused(self, told: Told, secrets: list[str], *, later: float = 0, **changed: Any) -> bool:
        """`later`: seconds after it was sent."""
        content = changed.pop("content", told.content)
        headers = {name.lower(): value for name, value in told.headers.items()}
        headers |= {f"webhook-{name}": value for name, value in changed.items()}
        try:
            verify(headers, content, secrets, at=int(told.headers["webhook-timestamp"]) + later)
        except Refused as error:
            return error.status == 401
        return False

    async def test_it_is_taken_for_five_minutes(self, told: Told) -> None:
        for secrets in ([OLD], [NEW], [OTHER, OLD]):
            assert not self.refused(told, secrets)
            assert not self.refused(told, secrets, later=299)
            assert self.refused(told, secrets, later=301), "a replay"
            assert self.refused(told, secrets, later=-301), "a clock that is wrong"

    async def test_nothing_of_it_can_be_changed(self, told: Told) -> None:
        at = int(told.headers["webhook-timestamp"])
        assert self.refused(told, [OLD], later=301, timestamp=str(at + 301)), "a replay with a new time"
        assert self.refused(told, [OLD], id="another")
        assert self.refused(told, [OLD], content=told.content.replace(b"saga.completed", b"saga.failed"))
        assert self.refused(told, [OLD], signature="v1,")
        assert self.refused(told, [OLD], signature="")
        assert self.refused(told, [OTHER])
        assert self.refused(told, [])


class TestSecretsOfServices:
    @pytest.fixture
    async def signed(self, world: World) -> World:  # noqa: F811
        service = {"url": world.participant.url, "headers": {"X-Token": HEADER_VALUE}, "secrets": [OLD, NEW]}
        answer = await world.api.put("/services/shop", service)
        assert answer.status == 200
        self.put = answer
        return world

    async def test_participants_are_sent_what_they_can_verify(self, signed: World) -> None:
        await signed.define({"name": "reserve"})
        await signed.ran()
        (asked,) = signed.participant.asked
        for secret in (OLD, NEW):
            Webhook(secret).verify(asked.content, asked.headers)
            assert read_call(asked.headers, asked.content, [OTHER, secret]).step == "reserve"
        with pytest.raises(Refused):
            read_call(asked.headers, asked.content, [OTHER])
        assert asked.headers["X-Token"] == HEADER_VALUE

    async def test_they_are_shown_to_nobody_again(
        self,
        signed: World,
        served: tuple[Client, FastAPI],  # noqa: F811
        browser: Browser,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """By no route that answers a GET, in no page, in no log."""
        caplog.set_level(logging.DEBUG)
        await signed.define({"name": "reserve", "retry": {"max_attempts": 1}})
        signed.participant.on("reserve", answers(500))
        saga = await signed.ran()
        await browser.log_in()
        key = (await signed.api.post("/admin/api/keys", {"scopes": ["read"], "reason": "a test"})).json
        nobody = {"action": "pause", "filter": {"key": "of nobody"}, "reason": "a test"}
        job = (await signed.api.post("/admin/api/bulk", nobody)).headers["Location"].rpartition("/")[2]
        values = {"/admin/api/keys/{id}": {"id": key["id"]}}
        values |= {path: {"id": job} for path in ("/admin/api/bulk/{id}", "/admin/bulk/{id}")}
        usual = {"id": saga["id"], "step": "reserve", "name": "order"}
        told = [self.put.content]
        for path in sorted(route.path for route in served[1].routes if "GET" in getattr(route, "methods", ())):
            if path in NOT_ASKED:
                continue
            usual["name"] = "shop" if path.startswith("/services") else "order"
            answer = await browser.get(path.format(**values.get(path, usual)))
            assert answer.status < 500, (path, answer.content)
            assert answer.status not in {401, 403, 404}, "it has to be there and to be seen, to show what it shows"
            told.append(answer.content)
        told.append((await signed.api.get("/admin/api/audit?format=jsonl")).content)
        assert sum(b"shop" in content for content in told) > 5, "it was looked at where services are shown"
        told.append(caplog.text.encode())
        for secret in (OLD, NEW, HEADER_VALUE):
            assert not [text for text in told if secret.removeprefix("whsec_").encode() in text]

    async def test_nor_by_the_command_line(self, signed: World, tmp_path: Path) -> None:
        await signed.define({"name": "reserve", "retry": {"max_attempts": 1}})
        signed.participant.on("reserve", answers(500))
        saga = await signed.ran()
        wrong = tmp_path / "services.yaml"
        wrong.write_text(
            f"one: {{url: 'http://127.0.0.1', secrets: {OLD}, headers: [{NEW}]}}\n"
            f"two: {{url: 'http://127.0.0.1', secret: [{OLD}], headers: '{HEADER_VALUE}'}}\n"
            f"three: {{url: 'http://127.0.0.1', secret: {OLD[:12]}, headers: {{'{HEADER_VALUE}': x}}}}\n"
        )
        environment = {"SAGA_URL": signed.api.base, "SAGA_API_KEY": KEY}
        for command in (["show", saga["id"]], ["list", "--json"], ["dead-letters", "list"], ["validate", str(wrong)]):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "app.cli", *command),
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await process.communicate()
            assert out
            assert (process.returncode == 0) is (command[0] != "validate"), out
            for secret in (OLD, OLD[:12], NEW, HEADER_VALUE):
                assert secret.encode() not in out, command

    async def test_a_wrong_one_is_not_quoted(self, signed: World) -> None:
        for body in (
            {"secret": "whsec_short"},
            {"secrets": [OLD, "not a secret"]},
            {"headers": {"X-A": "with\nbreak"}},
        ):
            answer = await signed.api.put("/services/shop", {"url": signed.participant.url, **body})
            assert (answer.status, answer.code) == (422, "service-invalid")
            for value in ("whsec_short", OLD, "not a secret", "with\\nbreak"):
                assert value.encode() not in answer.content

    def test_a_service_in_a_message_of_ours_does_not_tell_them(self) -> None:
        service = Service("shop", "http://127.0.0.1", headers={"X-Token": HEADER_VALUE}, secrets=(OLD,))
        assert HEADER_VALUE not in repr(service)
        assert OLD not in repr(service)


class TestASecretThatIsNone:
    """Whatever is signed with it, anybody can sign."""

    def test_an_empty_one_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SAGA_SECRET_KEY", "SAGA_WEBHOOK_SECRET", "SAGA_BOOTSTRAP_API_KEY", "SAGA_ADMIN_PASSWORD"):
            monkeypatch.setenv(name, "")
        settings = Settings()
        assert settings.secret_key is settings.webhook_secret is settings.bootstrap_api_key is None
        assert settings.admin_password is None
        assert maker(settings) is None

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ=", f"{OLD} whsec_c2hvcnQ="])
    def test_a_short_one_does_not_sign_notices(self, secret: str) -> None:
        with pytest.raises(ValueError, match="16 to 64 bytes") as refused:
            Settings(webhook_secret=secret)
        assert "c2hvcnQ" not in str(refused.value)

    def test_settings_do_not_tell_theirs(self) -> None:
        settings = Settings(
            database_url="postgresql://me:hunter2@127.0.0.1/x",
            redis_url="redis://:hunter2@127.0.0.1",
            secret_key="hunter2",
        )
        assert "hunter2" not in repr(settings)
        assert "hunter2" not in str(settings)


class TestCallbackTokens:
    NAME = AttemptName("01a20088-707d-7471-80b7-140b7fdea249", "reserve", "action", 1)

    def test_ours_is_read(self) -> None:
        assert read_token("ours", make_token("ours", self.NAME)) == self.NAME

    @pytest.mark.parametrize(
        "change",
        [
            {"saga_id": "01a20088-707d-7471-80b7-140b7fdea240"},
            {"step": "charge"},
            {"operation": "compensation"},
            {"attempt": 2},
        ],
    )
    def test_the_mac_of_one_attempt_is_not_that_of_another(self, change: dict[str, Any]) -> None:
        fields = {name: getattr(self.NAME, name) for name in AttemptName.__slots__}
        other = make_token("ours", AttemptName(**{**fields, **change}))
        ours = make_token("ours", self.NAME)
        assert read_token("ours", f"{other.partition('.')[0]}.{ours.partition('.')[2]}") is None

    def test_another_secret_makes_no_token_of_ours(self) -> None:
        assert read_token("ours", make_token("theirs", self.NAME)) is None

    def test_no_changed_character_goes_unnoticed(self) -> None:
        token = make_token("ours", self.NAME)
        # Some bits of the last character of each half are not used by base64; a token has one spelling all the same.
        alphabet = string.ascii_letters + string.digits + "-_."
        for place, character in enumerate(token):
            for other in alphabet:
                if other != character:
                    assert read_token("ours", token[:place] + other + token[place + 1 :]) is None, place
