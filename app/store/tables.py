"""The tables, with constraints that refuse what the law forbids.

`saga` is built for its updates. A step costs two of them, and PostgreSQL keeps an update cheap (HOT) only while no
indexed column changes; so intermediate transitions touch none: `wake_at` is left alone while it is early enough
(`app.store.sagas`), and the rest of the indexed columns change at the ends of a saga's life. Payloads are apart and
written once. Events and payloads carry no foreign key: they are written by the statement that moves the saga's row,
and a check per row would double their price.

Plain PostgreSQL 15: no extension, nothing newer.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from app.access import NO_TENANT

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Moment: Final = DateTime(timezone=True)
REST: Final = "state IN ('COMPLETED', 'FAILED', 'COMPENSATION_FAILED', 'ABANDONED')"
FINAL: Final = "state IN ('COMPLETED', 'FAILED', 'ABANDONED')"


def of_tenant(table: Table, tenant: str | None) -> ColumnElement[bool]:
    """A condition; None: of every tenant."""
    return true() if tenant is None else table.c.tenant == tenant


definition = Table(
    "definition",
    metadata,
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
)

service = Table(
    "service",
    metadata,
    Column("name", String, primary_key=True),
    Column("url", String),
    Column("python", String),
    Column("headers", JSONB, nullable=False, server_default=text("'{}'")),
    Column("secrets", JSONB, nullable=False, server_default=text("'[]'")),
    Column("max_in_flight", Integer),
    Column("subscribes", JSONB, nullable=False, server_default=text("'[]'")),
    Column("updated_at", Moment, nullable=False, server_default=text("now()")),
    # nothing new is sent to it
    Column("paused_at", Moment),
    Column("paused_by", String),
    Column("pause_reason", String),
    CheckConstraint("(url IS NULL) <> (python IS NULL)", name="one_kind"),
    CheckConstraint("num_nulls(paused_at, paused_by, pause_reason) IN (0, 3)", name="paused_by_somebody"),
)

saga = Table(
    "saga",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    Column("idempotency_key", String, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("definition", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("notify_url", String),
    Column("traceparent", String),
    Column("restarted_from", UUID),
    Column("created_at", Moment, nullable=False),
    # what a transition writes
    Column("format", SmallInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("attention", Boolean, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("wake_at", Moment),
    Column("updated_at", Moment, nullable=False),
    Column("finished_at", Moment),
    # `place` of a definition with max_concurrent: 'waited for' since `waits_since`, or 'taken'
    Column("place", String),
    Column("waits_since", Moment),
    # what went wrong (`app.saga.trouble`); all NULL while nothing did, so that it costs a healthy saga nothing
    Column("blamed_step", String),
    Column("trouble", String),
    Column("told", String),
    UniqueConstraint("tenant", "idempotency_key"),
    ForeignKeyConstraint(["definition", "version"], ["definition.name", "definition.version"]),
    CheckConstraint(f"{REST} OR state IN ('CREATED', 'EXECUTING', 'COMPENSATING')", name="known_state"),
    CheckConstraint(f"NOT ({REST}) OR wake_at IS NULL", name="rest_sleeps"),
    # Nothing waits for ever: what is neither at rest nor paused has a time at which it is looked at.
    CheckConstraint(f"{REST} OR paused OR wake_at IS NOT NULL", name="nothing_sleeps_for_ever"),
    CheckConstraint(f"({FINAL}) = (finished_at IS NOT NULL)", name="final_is_finished"),
    CheckConstraint("state <> 'COMPENSATION_FAILED' OR attention", name="failed_compensation_needs_a_person"),
    CheckConstraint("(place = 'waited for') = (waits_since IS NOT NULL)", name="waits_since_when"),
    CheckConstraint("told IS NOT NULL OR (blamed_step IS NULL AND trouble IS NULL)", name="trouble_is_told"),
    Index("ix_saga_place", "definition", "place", "waits_since", "id", postgresql_where=text("place IS NOT NULL")),
    Index("ix_saga_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("ix_saga_tenant_created_at", "tenant", text("created_at DESC"), text("id DESC")),
    Index("ix_saga_created_at", text("created_at DESC"), text("id DESC")),
    Index("ix_saga_state_created_at", "state", text("created_at DESC"), text("id DESC")),
    Index("ix_saga_definition_created_at", "definition", text("created_at DESC"), text("id DESC")),
    Index("ix_saga_attention", text("created_at DESC"), text("id DESC"), postgresql_where=text("attention")),
    Index("ix_saga_told", text("created_at DESC"), text("id DESC"), postgresql_where=text("told IS NOT NULL")),
    Index("ix_saga_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    Index("ix_saga_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    postgresql_with={"fillfactor": 60, "autovacuum_vacuum_scale_factor": 0.05},
)

saga_payload = Table(
    "saga_payload",
    metadata,
    Column("saga_id", UUID, primary_key=True),
    Column("name", String, primary_key=True),
    Column("codec", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

saga_event = Table(
    "saga_event",
    metadata,
    Column("saga_id", UUID, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("step", String),
    Column("operation", String),
    Column("attempt", Integer),
    Column("data", JSONB, nullable=False),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", UUID, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    # null of an event: one that could not be processed, or that a subscribed `service` did not take
    Column("saga_id", UUID),
    Column("saga", String, nullable=False),
    Column("step", String, nullable=False),
    Column("operation", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", JSONB, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("service", String),
    Column("event", JSONB),
    # of `event`: 0 as it is, 1 sealed, as a text (app.store.sealing)
    Column("codec", SmallInteger, nullable=False, server_default=text("0")),
    CheckConstraint("(saga_id IS NULL) = (event IS NOT NULL)", name="of_a_saga_or_of_an_event"),
    CheckConstraint("status IN ('open', 'retried', 'resolved', 'discarded', 'noted')", name="known_status"),
    Index("ix_dead_letter_status_created_at", "status", text("created_at DESC"), text("id DESC")),
    # One open letter for one operation: what is given up twice in a row is one thing to look at.
    Index(
        "uq_dead_letter_open",
        "saga_id",
        "step",
        "operation",
        unique=True,
        postgresql_where=text("status = 'open'"),
    ),
)

# What was done to many sagas at once. What was done to each of them stands in the audit trail.
bulk_job = Table(
    "bulk_job",
    metadata,
    Column("id", UUID, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("most", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("begun_at", Moment, nullable=False, server_default=text("now()")),
    Column("matched", Integer, nullable=False),
    # null: under way, or its process died
    Column("ended_at", Moment),
    Column("done", Integer),
    Column("failed", JSONB),
    CheckConstraint("num_nulls(ended_at, done, failed) IN (0, 3)", name="ended_with_a_result"),
    Index("ix_bulk_job_begun_at", text("begun_at DESC"), text("id DESC")),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", String, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Moment, nullable=False, server_default=text("now()")),
    Index("ix_outbox_due_at", "due_at"),
)

# What is still to be posted: a notice of a saga to its `url`, or an event to a subscribed `service`. Apart from the
# outbox: its rows are addressed, listed and retried one by one, and however many pile up before a dead receiver, dead
# letters do not wait behind them.
notice = Table(
    "notice",
    metadata,
    Column("id", UUID, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    Column("saga_id", UUID),
    Column("type", String, nullable=False),
    Column("url", String),
    Column("service", String),
    Column("body", LargeBinary, nullable=False),
    Column("codec", SmallInteger, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False),
    # `due_at` is null once it is given up: so long after `since`, which a retry renews
    Column("since", Moment, nullable=False, server_default=text("now()")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Moment, server_default=text("now()")),
    Column("last_error", String),
    CheckConstraint("due_at IS NOT NULL OR last_error IS NOT NULL", name="given_up_says_why"),
    CheckConstraint(
        "CASE WHEN service IS NULL THEN saga_id IS NOT NULL AND url IS NOT NULL ELSE saga_id IS NULL AND url IS NULL"
        " END",
        name="of_a_saga_or_of_an_event",
    ),
    Index("ix_notice_first", "due_at", postgresql_where=text("attempts = 0")),
    Index("ix_notice_again", "due_at", postgresql_where=text("attempts > 0")),
    Index("ix_notice_created_at", text("created_at DESC"), text("id DESC")),
)

# Which events a reader has had: '' is the door `POST /events`, the others are services that events are posted to. What
# came by the door is kept with its text, so that it can be published again where the stream is lost.
event_seen = Table(
    "event_seen",
    metadata,
    Column("reader", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("at", Moment, nullable=False, server_default=text("now()")),
    Column("event", String),
    Column("codec", SmallInteger, nullable=False, server_default=text("0")),
    Index("ix_event_seen_at", "at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", Moment, nullable=False, server_default=text("now()")),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("saga_id", UUID),
    # what else it was done to: `definition/NAME`, `service/NAME`, `key/ID`, `user/NAME`
    Column("subject", String),
    Column("reason", String),
    Column("before", JSONB),
    Column("after", JSONB),
    # from where: the address of the request
    Column("address", String),
    Index("ix_audit_saga_id", "saga_id"),
    Index("ix_audit_tenant_id", "tenant", text("id DESC")),
)

# Of a key and of a session only a SHA-256 is kept: both are random secrets, so a slow hash would add nothing.
api_key = Table(
    "api_key",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", JSONB, nullable=False),
    Column("tenant", String, nullable=False, server_default=NO_TENANT),
    # what it is for, in its owner's words
    Column("note", String),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("created_by", String, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
    # the key that this one was made in place of
    Column("replaces", String),
    Index("ix_api_key_created_at", text("created_at DESC"), text("id DESC")),
)

account = Table(
    "account",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    # null: the house's own, who look at every tenant
    Column("tenant", String),
    # argon2id; null for those who log in by OpenID Connect alone
    Column("password_hash", String),
    # `issuer subject` of OpenID Connect
    Column("oidc_subject", String, unique=True),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("created_by", String, nullable=False),
    Column("disabled_at", Moment),
    Column("last_login_at", Moment),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="known_role"),
)

session = Table(
    "session",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("account", String, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("seen_at", Moment, nullable=False, server_default=text("now()")),
    Column("expires_at", Moment, nullable=False),
    Column("address", String),
    Column("user_agent", String),
    ForeignKeyConstraint(["account"], ["account.name"], ondelete="CASCADE"),
    Index("ix_session_account", "account"),
    Index("ix_session_expires_at", "expires_at"),
)

# Who has failed to log in, by what was tried (`account/NAME`) and from where (`address/IP`).
login_failure = Table(
    "login_failure",
    metadata,
    Column("subject", String, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_at", Moment, nullable=False, server_default=text("now()")),
    Index("ix_login_failure_last_at", "last_at"),
)
