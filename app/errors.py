"""What can go wrong, in terms that every door of the house understands.

A `Problem` is the asker's to mend: each door says it in its own way (HTTP: RFC 9457 problem+json; the command line: a
sentence). The other errors are the house's own.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.access import Caller

MAX_FAULTS: Final = 100
"""That are told at a time."""


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """`code` is a stable short name; `detail` tells a person what happened and what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = errors
        """(path, message) of each fault where there are several."""
        self.headers = headers or {}
        self.extra = extra


def too_large(limit: int, what: str = "The body") -> Problem:
    detail = f"{what} is larger than {limit:,} bytes. Keep large things elsewhere and send a reference."
    return Problem(413, "body-too-large", detail, limit=limit)


def refuse_tenants(caller: Caller, what: str) -> None:
    """Problem 403 to who acts for one tenant. `what` is the house's: 'Users are managed by the house'."""
    if not caller.every_tenant:
        raise Problem(403, "tenant-bound", f"{what}: with a key or a user that belongs to no tenant.")


class PayloadUnreadable(Problem):
    """A payload is sealed with a key that this process was not given, or is damaged. Nothing is lost: with the key it
    can be read again.
    """

    def __init__(self, owner: str, name: str, key_id: str | None = None) -> None:
        what = f"{name!r} of {owner}"
        if key_id is None:
            super().__init__(503, "payload-damaged", f"{what} is sealed, and damaged: restore it from a backup.")
        else:
            detail = f"{what} is sealed with the key {key_id!r}, which SAGA_PAYLOAD_KEYS does not name: add it again."
            super().__init__(503, "payload-key-missing", detail, headers={"Retry-After": "60"}, key=key_id)
        self.key_id = key_id


class DatabaseUnavailable(Exception):  # noqa: N818 - a condition, not a mistake
    """PostgreSQL could not be asked, or did not say whether it has committed."""

    def __init__(self, cause: BaseException) -> None:
        # A ValueError is what the driver makes of an argument that it cannot write, and quotes it.
        said = "" if isinstance(cause, ValueError) else str(cause)
        super().__init__(f"PostgreSQL does not answer: {said or type(cause).__name__}")
