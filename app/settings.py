"""Every setting, from environment variables with the prefix SAGA_. Durations are seconds."""

import base64
import binascii
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.saga.definition import MAX_STEPS
from app.saga.jsonable import MAX_DEPTH


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


@lru_cache
def get_settings() -> Settings:
    return Settings()
