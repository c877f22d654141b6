"""The HTTP API as a Python program asks it: synchronous, on the standard library alone.

Errors are what the API says they are: an answer that is a problem (RFC 9457) is raised as `Problem`; a server that
cannot be reached, or answers as no saga API would, as `Unreachable`. Nothing is retried here: whoever calls knows
what may be repeated. Proxies of the environment are not used, and redirects are not followed, since the API sends
none and the key is for nobody else.
"""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from app.errors import Problem

ANSWER_SECONDS: Final = 30.0

Query = Sequence[tuple[str, str]]


class Unreachable(Exception):  # noqa: N818 - a condition
    """No answer of a saga API came; a sentence. `sent`: the request may have arrived all the same."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in small letters."""
    text: str

    url: str
    """Of the API that was asked."""

    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            raise self._strange() from None

    def object(self, *fields: str) -> dict[str, Any]:
        """A JSON object that has these fields, as an answer of ours does. Raises Unreachable."""
        found = self.json()
        if not _has(found, fields):
            raise self._strange()
        return dict(found)

    def saga(self) -> dict[str, Any]:
        return self.object("id", "saga", "state")

    def items(self, *fields: str) -> list[dict[str, Any]]:
        """The objects of a list or of a page of one."""
        found = self.object("items")["items"]
        if not isinstance(found, list) or not all(_has(item, fields) for item in found):
            raise self._strange()
        return found

    def _strange(self) -> Unreachable:
        return Unreachable(f"{self.url} does not answer as a saga API would")

    @property
    def at(self) -> datetime:
        """The server's time, to whole seconds; ours where it does not say."""
        try:
            return parsedate_to_datetime(self.headers["date"])
        except (KeyError, ValueError):
            return datetime.now(UTC)


class Client:
    """`url` is the address of the API, with a path where it stands behind one."""

    def __init__(self, url: str, key: str | None = None, *, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """ValueError, with a sentence, where the address or the key cannot be one."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme not in {"http", "https"} or not parts.path.isascii() or parts.query:
            raise ValueError("is not an address such as http://127.0.0.1:8000")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("holds characters that no key has")
        self._scheme, self._host, self._port, self._path = parts.scheme, host, port, parts.path.rstrip("/")
        self._key, self._timeout_seconds = key, timeout_seconds
        named = f"[{host}]" if ":" in host else host
        self.url: Final = f"{parts.scheme}://{named}{f':{port}' if port else ''}{self._path}"

    def get(self, path: str, query: Query = ()) -> Answer:
        return self.ask("GET", path, query=query)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body=body, headers=headers)

    def pages(self, path: str, query: Query = (), *, cursor: str = "cursor") -> Iterator[Answer]:
        """Each page of a list, until the last."""
        following: Any = None
        while True:
            answer = self.get(path, [*query, *([(cursor, str(following))] if following is not None else [])])
            yield answer
            before, following = following, answer.object("items").get("next_cursor")
            if following is None or following == before:
                return

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        patience_seconds: float = 0,
    ) -> Answer:
        """`patience_seconds`: how much longer than usual the answer may take. Raises Problem, Unreachable."""
        sent_headers = {"Accept": "application/json, application/problem+json", "User-Agent": "saga-cli"}
        if self._key is not None:
            sent_headers["Authorization"] = f"Bearer {self._key}"
        content = None
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode()
            sent_headers["Content-Type"] = "application/json"
        target = self._path + path + (f"?{urlencode(query)}" if query else "")
        answer = self._send(method, target, content, sent_headers | dict(headers or {}), patience_seconds)
        if answer.status >= 300:
            raise self._problem(answer)
        return answer

    def _send(
        self, method: str, target: str, content: bytes | None, headers: Mapping[str, str], patience_seconds: float
    ) -> Answer:
        seconds = self._timeout_seconds + patience_seconds
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=seconds)
        sent = False
        try:
            connection.connect()
            sent = True
            connection.request(method, target, content, dict(headers))
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except TimeoutError:
            raise Unreachable(f"{self.url} did not answer within {seconds:g} s", sent=sent) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if not sent:
                raise Unreachable(f"cannot reach {self.url}: {_reason(error)}") from None
            raise Unreachable(f"{self.url} broke the connection: {_reason(error)}", sent=True) from None
        finally:
            connection.close()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, text, self.url)

    def _problem(self, answer: Answer) -> Exception:
        try:
            said = answer.object("code")
        except Unreachable:
            if answer.status < 400:
                where = answer.headers.get("location", "elsewhere")
                return Unreachable(f"{self.url} sends us on to {where}, which a saga API would not")
            try:
                phrase = f" {HTTPStatus(answer.status).phrase}"
            except ValueError:
                phrase = ""
            return Unreachable(f"{self.url} answers {answer.status}{phrase}, and not as a saga API would")
        errors = [each for each in said.get("errors") or () if isinstance(each, dict)]
        return Problem(
            answer.status,
            str(said["code"]),
            str(said.get("detail") or said.get("title") or said["code"]),
            errors=[(str(each.get("path", "")), str(each.get("message", ""))) for each in errors],
            headers=dict(answer.headers),
        )


def _has(value: Any, fields: Sequence[str]) -> bool:
    return isinstance(value, dict) and all(field in value for field in fields)


def path_of(*parts: str) -> str:
    """`/sagas/a%2Fb` of `sagas`, `a/b`."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.RemoteDisconnected):
        return "no answer came"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())
