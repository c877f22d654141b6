"""Every setting, from environment variables with the prefix SAGA_. Durations are seconds."""

import base64
import binascii
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _signing(given: SecretStr | None) -> SecretStr | None:
    for secret in given.get_secret_value().split() if given is not None else ():
        try:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise ValueError("must be whsec_ and bytes in base64, as Standard Webhooks has it") from None
    return given


class Settings(BaseSettings):
    """Read once at start; a process never changes its mind about them."""

    model_config = SettingsConfigDict(env_prefix="SAGA_", extra="ignore")

    database_url: str = "postgresql://saga@127.0.0.1:5432/saga"
    redis_url: str = "redis://127.0.0.1:6379/0"
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


@lru_cache
def get_settings() -> Settings:
    return Settings()
