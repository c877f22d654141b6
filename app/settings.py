"""Every setting, from environment variables with the prefix SAGA_. Durations are seconds."""

import base64
import binascii
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.access import ROLES, Role
from app.saga.definition import MAX_STEPS
from app.saga.jsonable import MAX_DEPTH

SIGNING_BYTES: Final = range(16, 65)
"""Of a secret that signs: a short one can be guessed, and Standard Webhooks has none longer."""


def _signing(given: SecretStr | None) -> SecretStr | None:
    for secret in given.get_secret_value().split() if given is not None else ():
        try:
            length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except binascii.Error:
            length = 0
        if length not in SIGNING_BYTES:
            raise ValueError("must be whsec_ and 16 to 64 bytes in base64, as Standard Webhooks has it")
    return given


def oidc_roles(text: str) -> list[tuple[Role, str]]:
    """ValueError where it cannot be understood."""
    found: list[tuple[Role, str]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        given, _, value = (each.strip() for each in part.partition("="))
        role = next((role for role in ROLES if role == given), None)
        if role is None or not value:
            raise ValueError(f"must be like admin=GROUP,operator=GROUP,viewer=*; {part!r} is not")
        found.append((role, value))
    return found


def _mapping(text: str) -> str:
    oidc_roles(text)
    return text


PLAIN: Final = "plain"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KEY_BYTES: Final = 32


def read_payload_keys(text: str) -> tuple[str | None, dict[str, bytes]]:
    """(the id of the key that seals, or None for none; all keys by id). ValueError, which quotes no key."""
    entries = text.split()
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(entries, 1):
        if number == 1 and entry == PLAIN:
            continue
        key_id, _, encoded = entry.partition(":")
        if not _KEY_ID.fullmatch(key_id) or not encoded:
            raise ValueError(f"entry {number} must be id:key, the id of letters, digits, - and _ (32 at most)")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the key of entry {number} must be {_KEY_BYTES} bytes in base64: openssl rand -base64 32")
        if key_id in keys:
            raise ValueError(f"entry {number} has the id of an earlier one")
        keys[key_id] = key
    return (None if not keys or entries[0] == PLAIN else next(iter(keys))), keys


def _payload_keys(given: SecretStr | None) -> SecretStr | None:
    if given is not None:
        read_payload_keys(given.get_secret_value())
    return given


class Settings(BaseSettings):
    """Read once at start; a process never changes its mind about them."""

    # An empty variable is none: with an empty SAGA_SECRET_KEY anybody could forge tokens.
    model_config = SettingsConfigDict(
        env_prefix="SAGA_", extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: str = Field("postgresql://saga@127.0.0.1:5432/saga", repr=False)
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    sagas_dir: Path | None = None
    """Folder of definitions and services.yaml, registered at start."""

    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    """Base of callback addresses; by default http://{host}:{port}."""

    bootstrap_api_key: SecretStr | None = None
    admin_password: SecretStr | None = None
    webhook_secret: Annotated[SecretStr | None, AfterValidator(_signing)] = None
    """Signs notices (Standard Webhooks). Several, with spaces between them, all sign: for rotation."""
    secret_key: SecretStr | None = None
    session_for: float = Field(43_200, gt=0)
    """A login ends after this long, whatever happens."""
    session_idle: float = Field(3_600, gt=0)
    """A login ends after this long without a request."""
    login_attempts: int = Field(5, ge=1)
    """So many logins of a user may fail before the next has to wait; from one address ten times as many."""
    login_delay_max: float = Field(300, gt=0)
    """The longest that a login has to wait after failed ones; from one address a tenth."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    oidc_scopes: str = "openid profile email"
    oidc_role_claim: str = "groups"
    """Of the ID token: a text or a list of them; or a path, as in `realm_access.roles`."""
    oidc_roles: Annotated[str, AfterValidator(_mapping)] = ""
    """Which role for what in that claim: `admin=saga-admins,operator=saga-ops,viewer=*`; the highest counts."""
    oidc_tenant_claim: str | None = None
    """Of the ID token: the user's tenant, `*` for the house. Without it every user is of the house."""
    oidc_issuer: str | None = None
    """Whoever has an account there may log in, if a role is given for it. Exactly as the issuer calls itself."""
    notify_hosts: str = "127.0.0.1,localhost,::1"
    notify_for: float = Field(259_200, gt=0)
    """A notice that nobody takes is given up after this long."""

    sweep_interval: float = Field(1, gt=0)
    redispatch_after: float = Field(10, gt=0)
    """A step sent to the queue and not claimed for this long is sent again, at growing distances."""
    lease_grace: float = Field(5, gt=0)
    """A claimed attempt is given up this long after its own timeout."""
    stuck_after: float = Field(300, gt=0)
    max_payload_bytes: int = Field(262_144, gt=0)
    max_call_bytes: int = Field(4_194_304, gt=0, validate_default=True)
    """Of a whole call: a step's input, the outputs that it is told and, to undo it, its own."""
    payload_keys: Annotated[SecretStr | None, AfterValidator(_payload_keys)] = None
    """`id:key` of what seals payloads at rest, several with spaces between them: the first seals, each opens. `plain`
    in front leaves what is written unsealed."""
    """Of an input, of an output, of the data of an event."""
    max_definition_bytes: int = Field(1_000_000, gt=0)
    """Of a definition as it is sent."""
    max_steps: int = Field(MAX_STEPS, ge=1, le=MAX_STEPS)
    """Of a definition that is sent; what is registered keeps its own."""
    max_depth: int = Field(MAX_DEPTH, ge=10, le=MAX_DEPTH)
    """Levels of lists and objects in a body."""
    max_labels: int = Field(32, ge=0)
    max_label_length: int = Field(256, ge=1)
    """Characters of a label's value."""
    max_list: int = Field(200, ge=1)
    """Items on one page of a list: who asks for more gets so many."""
    max_head_bytes: int = Field(65_536, ge=1024)
    """Of a request's line and headers."""
    body_timeout: float = Field(30, gt=0)
    """A request that has not arrived as a whole after so long, from its first byte on, is given up."""
    rate_limit: int = Field(300_000, ge=0)
    """Requests that a key, or a person, may make in one window; 0: any number."""
    rate_window: float = Field(60, ge=1)
    events_kept: float = Field(86_400, gt=0)
    """Events stay on the stream at least so long."""

    worker_slots: int = Field(100, ge=4)
    """Steps that one worker process runs at a time."""
    worker_compensation_slots: int = Field(25, ge=1)
    """Compensations that one worker process runs at a time, beside the steps."""
    shutdown_grace: float = Field(8, ge=0)
    """Attempts under way get so long when a worker is told to end."""
    worker_metrics_port: int = 9101
    metrics_dir: Path | None = None
    """Set by `saga up`: files through which the API's /metrics shows all processes of this machine."""
    database_pool: int = Field(8, ge=2)
    """Connections per process at most."""

    @field_validator("oidc_issuer")
    @classmethod
    def _whole(cls, issuer: str | None, info: ValidationInfo) -> str | None:
        if issuer is None:
            return None
        parts = urlsplit(issuer)
        loopback = parts.hostname in {"127.0.0.1", "localhost", "::1"}
        if not parts.hostname or parts.query or parts.scheme not in ({"http", "https"} if loopback else {"https"}):
            raise ValueError("must be an address with https")
        needed = ("oidc_client_id", "oidc_roles", "secret_key")
        if missing := [f"SAGA_{name.upper()}" for name in needed if not info.data.get(name)]:
            raise ValueError(f"needs {' and '.join(missing)} too")
        return issuer

    @field_validator("max_call_bytes")
    @classmethod
    def _holds_a_payload(cls, given: int, info: ValidationInfo) -> int:
        if given < (least := info.data.get("max_payload_bytes", 0)):
            raise ValueError(f"must be at least SAGA_MAX_PAYLOAD_BYTES, which is {least}")
        return given


@lru_cache
def get_settings() -> Settings:
    return Settings()
