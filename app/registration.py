"""Definitions and services on their way into the registry: from a folder of files, or from a request.

A folder (`SAGA_SAGAS_DIR`) holds one YAML file for each definition, and `services.yaml`. It is taken as a whole or
not at all; every fault is told with its file and path.
"""

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from app.input_schema import schema_faults
from app.participants.addresses import literal_fault
from app.saga.definition import MAX_STEPS, Definition, DefinitionInvalid, parse_definition
from app.saga.fields import Fault, Faults, Fields, of_type, or_nothing, shown, whole_number
from app.saga.jsonable import text_fault
from app.saga.service import Service
from app.saga.yaml12 import YamlInvalid, load_yaml
from app.settings import SIGNING_BYTES
from app.store.audit import AuditEntry
from app.store.definitions import Definitions
from app.store.services import Services
from saga_participant.events import LONGEST_NAME_BYTES

SERVICES_FILE: Final = "services.yaml"
SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
MAX_IN_FLIGHT: Final = 100_000
MAX_SUBSCRIBED: Final = 100

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]{0,4000}")
_OURS: Final = re.compile(
    r"content-type|content-length|transfer-encoding|connection|host|idempotency-key|traceparent|saga-.*|webhook-.*",
    re.IGNORECASE,
)


class FileFault(NamedTuple):
    """What is wrong in a file of a sagas folder."""

    file: Path
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


class RegistrationFailed(Exception):  # noqa: N818 - a condition of the files, told to a person
    """A folder that is refused as a whole."""

    def __init__(self, faults: list[FileFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class ServiceInvalid(ValueError):  # noqa: N818 - the name of the answer: service-invalid
    def __init__(self, errors: list[Fault]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in errors))
        self.errors = errors


# --- one definition, one service --------------------------------------------------------------------------------


def check_definition(document: object, services: Collection[str] | None, *, max_steps: int = MAX_STEPS) -> Definition:
    """As `parse_definition`, and `input_schema` has to be a JSON Schema. Raises DefinitionInvalid with every fault."""
    faults: list[Fault] = []
    try:
        definition = parse_definition(document, services, max_steps=max_steps)
    except DefinitionInvalid as error:
        faults = error.errors
    schema = document.get("input_schema") if isinstance(document, Mapping) else None
    if isinstance(schema, dict) and not any(path.startswith("input_schema") for path, _ in faults):
        faults = [*faults, *schema_faults(schema)]
    if faults:
        raise DefinitionInvalid(faults)
    return definition


def check_service(name: str, document: object, *, from_file: bool) -> Service:
    """A participant as services.yaml or a request describes it. Raises ServiceInvalid with every fault."""
    faults = Faults()
    if not SERVICE_NAME.fullmatch(name):
        faults.add("", f"{shown(name)} cannot be the name of a service: letters, digits, . _ ~ and - can, up to 128")
    fields = Fields(document, "", faults)
    url = fields.optional("url", or_nothing(_url), None)
    python = fields.optional("python", or_nothing(of_type(str, "a module, or a file beside services.yaml")), None)
    headers = fields.optional("headers", or_nothing(_headers), None) or {}
    limit = fields.optional("max_in_flight", or_nothing(whole_number(1, MAX_IN_FLIGHT)), None)
    secret = fields.optional("secret", or_nothing(_secret), None)
    secrets = fields.optional("secrets", or_nothing(_secrets), None)
    subscribes = fields.optional("subscribes", or_nothing(_subscribes), None)
    called = fields.optional("name", or_nothing(of_type(str, "the service's name")), None)
    fields.refuse_others()
    if called is not None and called != name:
        fields.fault("name", f"is {shown(called)}, but the address names {shown(name)}")
    if secret is not None and secrets is not None:
        fields.fault("secret", "says the same as secrets: leave one of them out")
    if fields.is_object:
        _check_kind(fields, from_file=from_file)
    if faults.found:
        raise ServiceInvalid(faults.found)
    signing = (secret,) if secret is not None else tuple(secrets or ())
    return Service(name, url, python, headers, signing, limit, tuple(subscribes or ()))


def _check_kind(fields: Fields, *, from_file: bool) -> None:
    given = [kind for kind in ("url", "python") if fields.raw(kind) is not None]
    if "python" in given and not from_file:
        fields.fault("python", f"runs code in the workers, so it is taken only from {SERVICES_FILE}")
    elif not given:
        fields.fault("url", "is missing: say where the service is" + (", or name its python" if from_file else ""))
    elif len(given) == 2:
        fields.fault("python", "a service is either at a url or a python module, not both")
    elif given == ["python"]:
        for name in ("headers", "secret", "secrets", "subscribes"):
            if fields.raw(name) is not None:
                fields.fault(name, "is for services at a url")


def _url(value: object) -> str:
    text = of_type(str, "an address such as http://127.0.0.1:9001")(value)
    if "@" in urlsplit(text).netloc:
        raise ValueError("must not hold a user or a password: give them as a header")
    if fault := address_fault(text):
        raise ValueError(fault)
    if urlsplit(text).query or urlsplit(text).fragment or "?" in text or "#" in text:
        raise ValueError("must not have a query or a fragment: the name of the call follows it")
    return text


def address_fault(text: str) -> str | None:
    """Why this is not an address that can be posted to, or None."""
    # What stands before an @ may be a password.
    wanted = "must be an http or https address with a host" + ("" if "@" in text else f", not {shown(text)}")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text or len(text) > 2000:
        return wanted
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return wanted
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return wanted
    return literal_fault(parts.hostname)


def _headers(value: object) -> dict[str, str]:
    headers = of_type(dict, "an object of header names and texts", secret=True)(value)
    seen: set[str] = set()
    for name, text in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise ValueError("has a key that is not the name of a header")
        if _OURS.fullmatch(name):
            raise ValueError(f"{name} is set by the orchestrator itself")
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise ValueError(f"{name} must be a text of printable ASCII characters")
        if name.lower() in seen:
            raise ValueError(f"{name} stands there twice")
        seen.add(name.lower())
    return headers


def _secret(value: object) -> str:
    text = of_type(str, "a secret such as whsec_…", secret=True)(value)
    try:
        length = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not text.startswith("whsec_") or length not in SIGNING_BYTES:
        raise ValueError("must be whsec_ and 16 to 64 bytes in base64 (Standard Webhooks)")
    return text


def _secrets(value: object) -> list[str]:
    secrets = of_type(list, "a list of secrets", secret=True)(value)
    if not 1 <= len(secrets) <= 10:
        raise ValueError("must be a list of 1 to 10 secrets")
    return [_secret(secret) for secret in secrets]


def _subscribes(value: object) -> list[str]:
    types = of_type(list, "a list of event types")(value)
    if len(types) > MAX_SUBSCRIBED:
        raise ValueError(f"names more than {MAX_SUBSCRIBED} event types")
    for position, given in enumerate(types):
        if not isinstance(given, str) or not given or text_fault(given) or len(given.encode()) > LONGEST_NAME_BYTES:
            wanted = f"the type of an event: a text of 1 to {LONGEST_NAME_BYTES} bytes"
            raise ValueError(f"must have in place {position + 1} {wanted}, not {shown(given)}")
    return list(dict.fromkeys(types))


# --- a folder of files ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """What the files of a sagas folder say, as far as they can be read."""

    path: Path
    services: dict[str, Service] = field(default_factory=dict)
    documents: dict[Path, object] = field(default_factory=dict)
    faults: list[FileFault] = field(default_factory=list)

    def definitions(self, known: Collection[str] | None) -> list[Definition]:
        """Checked against the folder's services and those that are `known` beside them; None leaves services open.

        Raises RegistrationFailed with every fault of the folder.
        """
        services = None if known is None else {*known, *self.services}
        faults = list(self.faults)
        found: dict[str, tuple[Path, Definition]] = {}
        for file, document in self.documents.items():
            try:
                definition = check_definition(document, services)
            except DefinitionInvalid as error:
                faults += [FileFault(file, path, message) for path, message in error.errors]
                continue
            if definition.name in found:
                other = found[definition.name][0]
                faults.append(FileFault(file, "name", f"{definition.name!r} is defined in {other.name} already"))
            found.setdefault(definition.name, (file, definition))
        if faults:
            raise RegistrationFailed(faults)
        return [definition for _, definition in found.values()]


def read_folder(path: Path) -> Folder:
    folder = Folder(path)
    if not path.is_dir():
        folder.faults.append(FileFault(path, "", "is not a directory"))
        return folder
    files = sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"} and file.is_file())
    for file in files:
        try:
            document = _read(file)
        except YamlInvalid as error:
            folder.faults.append(FileFault(file, "", error.message))
            continue
        if file.stem == Path(SERVICES_FILE).stem:
            _take_services(folder, file, document)
        else:
            folder.documents[file] = document
    return folder


def check_file(file: Path) -> list[FileFault]:
    """What is wrong with one definition, or with services.yaml. Services are looked up in services.yaml beside it."""
    folder = Folder(file.parent)
    try:
        document = _read(file)
    except YamlInvalid as error:
        return [FileFault(file, "", error.message)]
    if file.stem == Path(SERVICES_FILE).stem:
        _take_services(folder, file, document)
        return folder.faults
    beside = file.parent / SERVICES_FILE
    services: set[str] | None = None
    if beside.is_file():
        try:
            content = _read(beside)
        except YamlInvalid as error:
            return [FileFault(beside, "", error.message)]
        services = {name for name in content if isinstance(name, str)} if isinstance(content, dict) else set()
    try:
        check_definition(document, services)
    except DefinitionInvalid as error:
        return [FileFault(file, path, message) for path, message in error.errors]
    return []


def _read(file: Path) -> object:
    try:
        return load_yaml(file.read_bytes())
    except OSError as error:
        raise YamlInvalid(f"cannot be read: {error.strerror or error}") from error


def _take_services(folder: Folder, file: Path, document: object) -> None:
    if document is None:
        return
    if not isinstance(document, dict):
        folder.faults.append(FileFault(file, "", f"must be an object of services, not {shown(document)}"))
        return
    for name, content in document.items():
        at = partial(_below, str(name))
        try:
            folder.services[name] = check_service(name, content, from_file=True)
        except ServiceInvalid as error:
            folder.faults.extend(FileFault(file, at(path), message) for path, message in error.errors)


def _below(name: str, path: str) -> str:
    return f"{name}.{path}" if path else name


async def register_folder(path: Path, definitions: Definitions, services: Services) -> tuple[list[str], list[str]]:
    """(names of services, `name vN` of definitions) that are new or changed. Raises RegistrationFailed."""
    folder = read_folder(path)
    known = await services.read()
    found = folder.definitions(known)
    changed = []
    for service in folder.services.values():
        if known.get(service.name) != service:
            await services.put(service, _of_files("put-service", f"service/{service.name}"))
            changed.append(service.name)
    new = []
    for definition in found:
        version, created = await definitions.register(
            definition, _of_files("put-definition", f"definition/{definition.name}")
        )
        if created:
            new.append(f"{definition.name} v{version}")
    return changed, new


def _of_files(action: str, subject: str) -> AuditEntry:
    return AuditEntry("house:files", action, None, None, None, subject=subject)
