"""first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tenant", sa.String(), server_default="", nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("saga_id", sa.UUID(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_saga_id", "audit", ["saga_id"], unique=False)
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("tenant", sa.String(), server_default="", nullable=False),
        sa.Column("saga_id", sa.UUID(), nullable=False),
        sa.Column("saga", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('open', 'retried', 'resolved', 'discarded', 'noted')", name=op.f("ck_dead_letter_known_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter")),
    )
    op.create_index(
        "ix_dead_letter_status_created_at",
        "dead_letter",
        ["status", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "uq_dead_letter_open",
        "dead_letter",
        ["saga_id", "step", "operation"],
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "definition",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_definition")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"], unique=False)
    op.create_table(
        "saga_event",
        sa.Column("saga_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.String(), nullable=True),
        sa.Column("operation", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("saga_id", "seq", name=op.f("pk_saga_event")),
    )
    op.create_table(
        "saga_payload",
        sa.Column("saga_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("codec", sa.SmallInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("saga_id", "name", name=op.f("pk_saga_payload")),
    )
    op.create_table(
        "service",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("python", sa.String(), nullable=True),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("secrets", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(url IS NULL) <> (python IS NULL)", name=op.f("ck_service_one_kind")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_service")),
    )
    op.create_table(
        "saga",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant", sa.String(), server_default="", nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("definition", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("notify_url", sa.String(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=True),
        sa.Column("restarted_from", sa.UUID(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("format", sa.SmallInteger(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("attention", sa.Boolean(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('COMPLETED', 'FAILED', 'ABANDONED')) = (finished_at IS NOT NULL)",
            name=op.f("ck_saga_final_is_finished"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('COMPLETED', 'FAILED', 'COMPENSATION_FAILED', 'ABANDONED')) OR wake_at IS NULL",
            name=op.f("ck_saga_rest_sleeps"),
        ),
        sa.CheckConstraint(
            "state <> 'COMPENSATION_FAILED' OR attention", name=op.f("ck_saga_failed_compensation_needs_a_person")
        ),
        sa.CheckConstraint(
            "state IN ('COMPLETED', 'FAILED', 'COMPENSATION_FAILED', 'ABANDONED') OR paused OR wake_at IS NOT NULL",
            name=op.f("ck_saga_nothing_sleeps_for_ever"),
        ),
        sa.CheckConstraint(
            "state IN ('COMPLETED', 'FAILED', 'COMPENSATION_FAILED', 'ABANDONED') OR state IN ('CREATED', 'EXECUTING', 'COMPENSATING')",
            name=op.f("ck_saga_known_state"),
        ),
        sa.ForeignKeyConstraint(
            ["definition", "version"], ["definition.name", "definition.version"], name=op.f("fk_saga_definition")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saga")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("uq_saga_tenant_idempotency_key")),
        postgresql_with={"fillfactor": 60, "autovacuum_vacuum_scale_factor": 0.05},
    )
    op.create_index(
        "ix_saga_attention",
        "saga",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("attention"),
    )
    op.create_index(
        "ix_saga_definition_created_at",
        "saga",
        ["definition", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_saga_finished_at",
        "saga",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_saga_labels",
        "saga",
        ["labels"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    op.create_index(
        "ix_saga_state_created_at",
        "saga",
        ["state", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_saga_tenant_created_at",
        "saga",
        ["tenant", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_saga_wake_at", "saga", ["wake_at"], unique=False, postgresql_where=sa.text("wake_at IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_saga_wake_at", table_name="saga", postgresql_where=sa.text("wake_at IS NOT NULL"))
    op.drop_index("ix_saga_tenant_created_at", table_name="saga")
    op.drop_index("ix_saga_state_created_at", table_name="saga")
    op.drop_index(
        "ix_saga_labels", table_name="saga", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
    )
    op.drop_index("ix_saga_finished_at", table_name="saga", postgresql_where=sa.text("finished_at IS NOT NULL"))
    op.drop_index("ix_saga_definition_created_at", table_name="saga")
    op.drop_index("ix_saga_attention", table_name="saga", postgresql_where=sa.text("attention"))
    op.drop_table("saga")
    op.drop_table("service")
    op.drop_table("saga_payload")
    op.drop_table("saga_event")
    op.drop_index("ix_outbox_due_at", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("definition")
    op.drop_index("uq_dead_letter_open", table_name="dead_letter", postgresql_where=sa.text("status = 'open'"))
    op.drop_index("ix_dead_letter_status_created_at", table_name="dead_letter")
    op.drop_table("dead_letter")
    op.drop_index("ix_audit_saga_id", table_name="audit")
    op.drop_table("audit")
