"""The secrets of a house: made at its first start, kept in `credentials.json`, told to the parts."""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_bytes, token_hex, token_urlsafe

from app.local.directory import write_private
from app.local.errors import HouseError

_SECRETS: dict[str, tuple[str, Callable[[], str]]] = {
    "api_key": ("SAGA_BOOTSTRAP_API_KEY", lambda: f"{token_hex(8)}.{token_urlsafe(32)}"),
    "admin_password": ("SAGA_ADMIN_PASSWORD", lambda: token_urlsafe(15)),
    "secret_key": ("SAGA_SECRET_KEY", lambda: token_urlsafe(48)),
    "webhook_secret": ("SAGA_WEBHOOK_SECRET", lambda: f"whsec_{base64.b64encode(token_bytes(32)).decode()}"),
}


def credentials_in(data: Path) -> Path:
    return data / "credentials.json"


def credentials(data: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets as environment variables: those given, else those of the file, else new ones kept there.

    Raises HouseError where the file cannot be understood; it is never written over.
    """
    kept = _kept(credentials_in(data))
    secrets, made = {}, {}
    for name, (variable, make) in _SECRETS.items():
        secret = environment.get(variable) or kept.get(name)
        if not secret:
            secret = made[name] = make()
        secrets[variable] = secret
    if made:
        write_private(credentials_in(data), {"admin_user": "admin", **kept, **made})
    return secrets


def _kept(path: Path) -> dict[str, str]:
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name, ""), str) for name in _SECRETS):
        raise HouseError(f"{path} is damaged: mend it, or remove it to have new credentials made.")
    return kept
