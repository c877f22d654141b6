"""Bodies: what is taken, checked by these models, and what is given, described by them.

What is taken is strict: no field that is not known, no text where a number belongs. What is given is never made by a
model (`app.views` writes it); a test holds the answers against the descriptions.
"""

import re
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    RootModel,
    StringConstraints,
    WithJsonSchema,
)

from app.access import TENANT, Role, Scope
from app.engine import SOURCE
from app.instants import parse_instant
from app.saga.definition import MAX_STEPS
from app.saga.durations import parse_duration
from app.saga.fields import shown
from app.saga.state import Micros
from app.submitting import LABEL, check_labels
from saga_participant.events import COMPENSATION_REQUESTED, LONGEST_NAME_BYTES

MAX_REASON: Final = 2000
DAY_SECONDS: Final = 86_400.0
NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"

_DURATION: Final = WithJsonSchema(
    {
        "anyOf": [{"type": "string", "pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?(ms|s|m|h|d)?$"}, {"type": "number"}],
        "description": "500ms, 10s, 15m, 2h, 1d; a bare number is seconds",
        "examples": ["15m"],
    }
)
Duration = Annotated[float, PlainValidator(parse_duration), _DURATION]
DurationOrNone = Annotated[float, PlainValidator(partial(parse_duration, allow_zero=True)), _DURATION]
"""0 is one too."""
Instant = Annotated[
    Micros,
    PlainValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-21T23:19:00Z"]}),
]
Labels = Annotated[
    dict[str, str],
    PlainValidator(check_labels),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "propertyNames": {"pattern": f"^{LABEL.pattern}$"},
            "description": "At most `SAGA_MAX_LABELS` (32), of `SAGA_MAX_LABEL_LENGTH` (256) characters",
            "examples": [{"customer": "4711"}],
        }
    ),
]


def _event_name(text: str) -> str:
    if not text or len(text.encode()) > LONGEST_NAME_BYTES:
        raise ValueError(f"must be a text of 1 to {LONGEST_NAME_BYTES} bytes")
    return text


def _version_of_cloudevents(text: str) -> str:
    if text != "1.0":
        raise ValueError(f"must be '1.0', not {shown(text)}")
    return text


def _not_ours(text: str) -> str:
    if text == SOURCE:
        raise ValueError(f"{SOURCE} is the orchestrator's own")
    return text


def _not_requested(text: str) -> str:
    if text == COMPENSATION_REQUESTED:
        raise ValueError(f"{COMPENSATION_REQUESTED} is published by the orchestrator alone")
    return text


def _json_content(text: str) -> str:
    if not re.fullmatch(r"[\w.+-]+/([\w.+-]+\+)?json(\s*;.*)?", text, re.ASCII | re.IGNORECASE):
        raise ValueError(f"must be a kind of JSON such as application/json, not {shown(text)}")
    return text


EventName = Annotated[str, AfterValidator(_event_name)]
Text = Annotated[str, StringConstraints(max_length=MAX_REASON)]
Json = Annotated[Any, WithJsonSchema({"description": "any JSON"})]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SagaRequest(Body):
    """A saga to start."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "saga": "order",
                    "input": {"sku": "tea", "quantity": 2, "amount": 1990, "card": "4242"},
                    "labels": {"customer": "4711"},
                    "timeout": "15m",
                }
            ]
        },
    )

    saga: str = Field(description="Name of a definition", examples=["order"])
    input: Json = Field(description="What the definition's `input_schema` asks for", examples=[{"sku": "tea"}])
    version: int | None = Field(None, gt=0, description="Of the definition; the newest where it is not given")
    labels: Labels | None = None
    timeout: Duration | None = None
    start_at: Instant | None = None
    notify_url: str | None = Field(
        None, max_length=2000, description="Is told when the saga comes to rest or needs attention"
    )
    idempotency_key: str | None = Field(
        None,
        description="In place of the header `Idempotency-Key`",
        json_schema_extra={"pattern": "^[!-~]{1,200}$"},
    )


class CancelRequest(Body):
    reason: Text | None = None


class CallbackRequest(Body):
    """The answer to an attempt that was accepted with 202."""

    status: Literal["succeeded", "refused"]
    output: Json = None
    error: Json = None


class Reason(Body):
    reason: Text = Field(min_length=1, description="Why; stands in the audit trail", examples=["Stock was recounted"])


class RetryRequest(Reason):
    input: Json = Field(None, description="Replaces the step's input")
    step: str | None = Field(None, description="Only this step")
    confirm_not_done: bool = Field(
        default=False, description="You have looked: the step, whose outcome is unknown, did not happen"
    )


class RestartRequest(Reason):
    input: Json = Field(None, description="In place of the old saga's")


class SkipRequest(Reason):
    step: str
    output: Json = Field(None, description="What later steps see as the step's output")
    confirm_not_done: bool = False


class ResolveRequest(Reason):
    step: str


class ExtendRequest(Reason):
    timeout: Duration = Field(description="From now")


class BulkFilter(Body):
    """As the parameters of `GET /sagas`."""

    state: list[str] | str | None = None
    saga: str | None = None
    label: dict[str, str] | list[str] | str | None = None
    key: str | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    attention: bool | None = None
    step: str | None = None
    error: str | None = None
    text: str | None = None
    id: list[str] | str | None = Field(None, max_length=40_000)


class BulkRequest(Reason):
    action: Literal["retry", "compensate", "pause"]
    filter: BulkFilter = Field(description="An empty one matches every saga", examples=[{"saga": "order"}])
    limit: int = Field(100, ge=1, le=1000)
    dry_run: bool = Field(default=False, description="Only count")


class ServiceRequest(Body):
    """As in services.yaml."""

    name: str | None = Field(None, description="The one in the address, where it is given")
    url: Json = Field(None, description="Base address of an HTTP participant", examples=["http://127.0.0.1:9001"])
    headers: Json = Field(None, description="Sent with every call", examples=[{"X-Env": "test"}])
    max_in_flight: Json = Field(None, description="Calls at a time, per worker process", examples=[50])
    secret: Json = Field(None, description="Signs what is sent (Standard Webhooks): whsec_…")
    secrets: Json = Field(None, description="Several, for rotation: each signs")
    subscribes: Json = Field(
        None, description="Types of events that are posted to it at `{url}/events`", examples=[["OrderPlaced"]]
    )


class RetryPolicyRequest(Body):
    max_attempts: int | None = Field(None, ge=1)
    initial_delay: Duration | None = None
    multiplier: float | None = Field(None, ge=1)
    max_delay: Duration | None = None
    jitter: float | None = Field(None, ge=0, le=1)


class StepRequest(Body):
    """A step calls (`action`, `compensation`), or names events (`trigger`, `succeeded`, `failed`, `compensated`)."""

    name: str = Field(pattern=NAME, examples=["charge"])
    service: str = Field(max_length=128, examples=["payment"])
    action: str | None = Field(None, examples=["charge"])
    compensation: str | None = Field(None, description="`none`: there is nothing to undo", examples=["refund"])
    timeout: Duration | None = None
    retries: int | None = Field(None, ge=0, description="In place of `retry.max_attempts`")
    retry: RetryPolicyRequest | None = None
    compensation_timeout: Duration | None = None
    compensation_retry: RetryPolicyRequest | None = None
    depends_on: list[str] | None = None
    when: str | None = Field(None, max_length=2000, description="JMESPath", examples=["input.express"])
    input: dict[str, Json] | None = Field(None, description="Each text is JMESPath", examples=[{"sku": "input.sku"}])
    on_exhausted: Literal["compensate", "pause"] | None = None
    pivot: bool | None = None
    statuses: dict[Literal["refused", "retry", "success"], list[int]] | None = None
    callback_timeout: Duration | None = None
    trigger: str | None = Field(None, max_length=200, examples=["OrderPlaced"])
    succeeded: str | None = Field(None, max_length=200)
    failed: str | None = Field(None, max_length=200)
    compensated: str | None = Field(None, max_length=200)


class DefinitionRequest(Body):
    """What can be run. Checked by `app.saga.definition`, which tells every fault; described here."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "order",
                    "steps": [
                        {"name": "reserve", "service": "inventory", "action": "reserve", "compensation": "release"},
                        {"name": "charge", "service": "payment", "action": "charge", "compensation": "refund"},
                    ],
                }
            ]
        },
    )

    name: str = Field(pattern=NAME, examples=["order"])
    type: Literal["orchestration", "choreography"] | None = None
    timeout: Duration | None = None
    max_concurrent: int | None = Field(None, ge=1)
    input_schema: dict[str, Json] | None = Field(None, description="JSON Schema of a saga's input")
    on_compensation_failure: Literal["continue", "halt"] | None = None
    started_by: str | None = Field(None, max_length=200)
    correlation: str | None = Field(None, max_length=2000, examples=["data.order_id"])
    steps: list[StepRequest] = Field(min_length=1, max_length=MAX_STEPS)


class EventRequest(BaseModel):
    """A CloudEvent 1.0 in JSON (structured mode). Further attributes are extensions, and are passed on."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "specversion": "1.0",
                    "id": "6b1f0e52",
                    "source": "shop",
                    "type": "OrderPlaced",
                    "data": {"order_id": "4711", "amount": 1990},
                }
            ]
        },
    )

    specversion: Annotated[str, AfterValidator(_version_of_cloudevents)] = Field(description="`1.0`")
    id: EventName = Field(description="With `source` it names the event: the same two are the same event")
    source: Annotated[EventName, AfterValidator(_not_ours)] = Field(description="Who publishes it")
    type: Annotated[EventName, AfterValidator(_not_requested)] = Field(description="What has happened")
    subject: EventName | None = None
    time: Instant | None = None
    datacontenttype: Annotated[str, AfterValidator(_json_content)] | None = None
    dataschema: Text | None = None
    data: Json = None


# --- what is given ----------------------------------------------------------------------------------------------

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-21T23:19:00.000000Z"])]
CallStates = Literal["PENDING", "SCHEDULED", "RUNNING", "WAITING", "RETRYING"]


class View(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FaultView(View):
    path: str
    message: str


class ProblemView(BaseModel):
    """RFC 9457. `code` is stable; `detail` is for people."""

    type: str = Field(examples=["urn:saga:problem:saga-not-found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no saga 0199aa00-0000-7000-8000-000000000000."])
    code: str = Field(examples=["saga-not-found"])
    errors: list[FaultView] = Field([], description="Where there are several faults")
    allowed: list[str] = Field([], description="Of a 409: the actions that the saga's state allows")


class ErrorView(View):
    step: str | None
    operation: Literal["action", "compensation"] | None
    code: str = Field(examples=["refused"])
    message: str
    status: int = Field(0, description="Of the HTTP answer, where there was one")
    attempts: int


class AttentionView(View):
    since: Time
    reason: str
    steps: list[str]


class CompensationView(View):
    state: CallStates | Literal["COMPENSATED", "FAILED", "NOT_NEEDED", "RESOLVED"]
    attempts: int
    error: ErrorView | None
    next_attempt_at: Time | None


class StepView(View):
    name: str
    service: str
    state: CallStates | Literal["SUCCEEDED", "REFUSED", "EXHAUSTED", "SKIPPED", "CANCELLED"]
    attempts: int
    output: Json = None
    error: ErrorView | None
    next_attempt_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    compensation: CompensationView


SAGA: Final[dict[str, Any]] = {
    "id": "01a20088-707d-7471-80b7-140b7fdea249",
    "saga": "order",
    "version": 3,
    "idempotency_key": "order-1001",
    "state": "EXECUTING",
    "input": {"sku": "tea"},
    "labels": {"customer": "4711"},
    "current_step": "charge",
    "completed_steps": [],
    "steps": [
        {
            "name": "charge",
            "service": "payment",
            "state": "RUNNING",
            "attempts": 1,
            "output": None,
            "error": None,
            "next_attempt_at": None,
            "started_at": "2026-11-21T23:19:00.120000Z",
            "finished_at": None,
            "compensation": {"state": "PENDING", "attempts": 0, "error": None, "next_attempt_at": None},
        }
    ],
    "error": None,
    "attention": None,
    "paused": False,
    "restarted_from": None,
    "created_at": "2026-11-21T23:19:00.000000Z",
    "updated_at": "2026-11-21T23:19:00.120000Z",
    "deadline_at": "2026-11-21T23:34:00.000000Z",
    "finished_at": None,
}


class SagaView(View):
    """`input` and `output` are left out of lists unless `payloads=true`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [SAGA]})

    id: str = Field(json_schema_extra={"format": "uuid"})
    saga: str = Field(examples=["order"])
    version: int
    idempotency_key: str
    state: Literal["CREATED", "EXECUTING", "COMPLETED", "COMPENSATING", "FAILED", "COMPENSATION_FAILED", "ABANDONED"]
    input: Json = None
    labels: dict[str, str]
    current_step: str | None
    completed_steps: list[str]
    steps: list[StepView]
    error: ErrorView | None
    attention: AttentionView | None
    paused: bool
    restarted_from: str | None
    created_at: Time
    updated_at: Time
    deadline_at: Time
    finished_at: Time | None


class SagaPage(View):
    items: list[SagaView]
    next_cursor: str | None


class EventView(View):
    seq: int
    type: str = Field(examples=["StepSucceeded"])
    at: Time
    step: str = ""
    operation: Literal["action", "compensation"] = "action"
    attempt: int = 0
    data: dict[str, Any]


class EventPage(View):
    items: list[EventView]
    next_cursor: int | None = Field(description="For `after`; null where there is no more")


class DefinitionSummary(View):
    name: str
    version: int
    created_at: Time


class DefinitionList(View):
    items: list[DefinitionSummary]


class VersionView(View):
    version: int
    created_at: Time


class DefinitionView(View):
    name: str
    version: int
    created_at: Time
    definition: dict[str, Any] = Field(description="With every default written out")
    versions: list[VersionView] = Field(description="Newest first")


class RegisteredView(View):
    name: str
    version: int
    created: bool = Field(description="Whether this made a new version")
    definition: dict[str, Any]


class PlanView(View):
    forward: list[list[str]]
    on_failure: dict[str, list[list[str]]]


class ValidView(View):
    valid: Literal[True]
    plan: PlanView


class PauseView(View):
    since: Time
    by: str
    reason: str


class ServiceView(View):
    name: str
    url: str | None
    python: str | None
    headers: list[str] = Field(description="Names only")
    max_in_flight: int | None
    signed: bool = Field(description="Whether what is sent is signed")
    subscribes: list[str] = Field(description="Types of the events that are posted to it")
    paused: PauseView | None = Field(description="While nothing new is sent to it")


class ServiceList(View):
    items: list[ServiceView]


class PublishedView(View):
    id: str
    source: str


class CallbackView(View):
    accepted: Literal[True]
    repeated: bool = Field(description="Whether this was known already")


class LetterView(View):
    id: str
    saga_id: str | None = Field(description="Null of an event")
    saga: str = Field(description="The definition; empty where an event belongs to none")
    step: str = Field(description="Of an event: its type")
    operation: Literal["action", "compensation", "event", "delivery"]
    attempts: int
    error: dict[str, Any]
    status: Literal["open", "retried", "resolved", "discarded", "noted"]
    created_at: Time
    service: str | None = Field(None, description="Of an event only: to which it could not be delivered")
    event: Any = Field(None, description="Of an event only: the event itself")


class SagaOrLetter(RootModel[SagaView | LetterView]):
    """The saga; of an event, which may have none, the letter."""


class ActionView(View):
    allowed: bool
    code: str | None = Field(description="Of the 409 where it is not")
    why: str | None
    steps: list[str] = Field(description="That it may be done to")


class ActionsView(View):
    """By action."""

    retry: ActionView
    restart: ActionView
    skip: ActionView
    resolve: ActionView
    compensate: ActionView
    abandon: ActionView
    pause: ActionView
    resume: ActionView
    extend: ActionView


class LetterPage(View):
    items: list[LetterView]
    next_cursor: str | None


class NoticeView(View):
    """What a `notify_url` still has to be told; it is gone once it was."""

    id: str = Field(description="Is sent as `webhook-id`")
    saga_id: str
    type: Literal["saga.completed", "saga.failed", "saga.compensation_failed", "saga.abandoned", "saga.attention"]
    url: str
    attempts: int
    last_error: str | None
    next_attempt_at: Time | None = Field(description="Null where it is given up")
    created_at: Time
    status: Literal["waiting", "failing", "given-up"]


class NoticePage(View):
    items: list[NoticeView]
    next_cursor: str | None


class BulkFailure(View):
    id: str
    code: str


class BulkView(View):
    matched: int
    done: int
    remaining: int
    failed: list[BulkFailure]


class BulkJobView(View):
    id: str
    actor: str
    action: str
    filter: dict[str, Any] = Field(description="As it was asked for")
    limit: int
    reason: str
    begun_at: Time
    ended_at: Time | None = Field(description="Null while it is under way, and where its process died")
    matched: int
    done: int | None
    failed: list[BulkFailure] | None


class BulkJobPage(View):
    items: list[BulkJobView]
    next_cursor: str | None


class AuditView(View):
    at: Time
    actor: str = Field(description="`key:ID`, `user:NAME`, or `house:files`")
    action: str
    saga_id: str | None
    subject: str | None = Field(description="What it was done to, where that is no saga: `definition/order`")
    reason: str | None
    before: Any
    after: Any
    address: str | None = Field(description="Where the request came from")


class AuditPage(View):
    items: list[AuditView]
    next_cursor: str | None


class AliveView(View):
    status: Literal["ok"]


class ReadyView(View):
    status: Literal["ready", "degraded"]
    database: Literal["ok"]
    redis: Literal["ok", "unavailable"]


# --- people -----------------------------------------------------------------------------------------------------

UserName = Annotated[str, StringConstraints(max_length=200)]
Password = Annotated[str, Field(json_schema_extra={"format": "password"}, description="12 to 1024 characters")]
UserTenant = Annotated[
    str | None,
    Field(None, pattern=f"^{TENANT}$", description="Null: one of the house, who looks at every tenant"),
]


class UserRequest(Body):
    """A new user."""

    name: UserName = Field(
        description="Letters, digits and . _ @ + -, up to 100; kept in small letters", examples=["ada"]
    )
    role: Role
    tenant: UserTenant
    password: Password | None = Field(None, description="12 to 1024 characters; without it, one is made and answered")
    reason: Text | None = None


class UserChange(Body):
    """What is left out stays as it is."""

    role: Role | None = None
    tenant: UserTenant
    disabled: bool | None = None
    password: Password | None = None
    reason: Text | None = None


class PasswordChange(Body):
    old: Password
    new: Password


class UserView(View):
    name: str
    role: Role
    tenant: str | None
    disabled: bool
    logs_in_by: list[Literal["password", "oidc"]]
    created_at: Time
    created_by: str
    last_login_at: Time | None


class NewUserView(UserView):
    password: str | None = Field(description="The one that was made; it is shown this once")


class UserPage(View):
    items: list[UserView]
    next_cursor: str | None


class EndedView(View):
    sessions: int = Field(description="How many were ended")


class MeView(View):
    name: str = Field(description="`user:NAME`, or `key:ID`")
    role: Role | None = Field(description="Of a user")
    rights: list[str]
    tenant: str = Field(description="What is started belongs to it; empty: to none")
    every_tenant: bool = Field(description="Whether what belongs to others is seen")
    csrf_token: str | None = Field(description="Of the session: for `X-CSRF-Token`")


# --- keys -------------------------------------------------------------------------------------------------------


class KeyRequest(Body):
    """A new key."""

    scopes: list[Scope] = Field(min_length=1, max_length=10, examples=[["start", "read"]])
    tenant: str | None = Field(
        None,
        pattern=f"^{TENANT}$",
        description="What is started with it belongs to that tenant, and nothing else is seen. Null: the caller's own",
    )
    expires_in: Duration | None = Field(
        None, description="From now, up to 366 days; null: it does not end by itself", examples=["90d"]
    )
    note: Text | None = Field(None, description="What it is for")
    reason: Text | None = None


class RotateRequest(Body):
    overlap: DurationOrNone = Field(
        DAY_SECONDS, description="So long the old key goes on; 0: it ends at once", examples=["1d"]
    )
    reason: Text | None = None


class KeyView(View):
    id: str = Field(examples=["01a217ba00007000800000000000abcd"])
    scopes: list[Scope]
    tenant: str = Field(description="Empty: none")
    note: str | None
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="To within a minute")
    replaces: str | None = Field(description="The key in whose place it was made")


class KeyMade(KeyView):
    key: str = Field(description="`id.secret`; it is shown this once")


class KeyPage(View):
    items: list[KeyView]
    next_cursor: str | None
