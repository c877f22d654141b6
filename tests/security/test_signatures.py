"""Signatures and tokens: what is replayed or forged is refused, and secrets are shown to nobody."""

import base64
import logging
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.callbacks import AttemptName, make_token, read_token
from app.participants.http import webhook_headers
from app.saga.service import Service
from tests.api.conftest import World, api, app_state, served, world  # noqa: F401 - fixtures
from tests.participant import answers

OLD, NEW, OTHER = (f"whsec_{base64.b64encode(name * 8).decode()}" for name in (b"old!", b"new!", b"else"))
HEADER_VALUE = "a header value that nobody reads again"


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
        assert asked.headers["X-Token"] == HEADER_VALUE

    async def test_they_are_shown_to_nobody_again(self, signed: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        await signed.define({"name": "reserve", "retry": {"max_attempts": 1}})
        signed.participant.on("reserve", answers(500))
        saga = await signed.ran()
        seen = [self.put.content]
        for path in (
            "/services",
            "/services/shop",
            "/definitions/order",
            f"/sagas/{saga['id']}",
            f"/sagas/{saga['id']}/events",
            "/admin/api/audit",
            "/admin/api/dead-letters",
            "/metrics",
            "/openapi.json",
        ):
            answer = await signed.api.get(path)
            assert answer.status == 200, path
            seen.append(answer.content)
        told = b"\n".join(seen) + caplog.text.encode()
        for secret in (OLD, NEW, HEADER_VALUE):
            assert secret.encode() not in told
            assert secret.removeprefix("whsec_").encode() not in told

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
