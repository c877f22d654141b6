"""events: what was seen, what is delivered, dead letters without a saga"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None

_OF_ONE = (
    "CASE WHEN service IS NULL THEN saga_id IS NOT NULL AND url IS NOT NULL ELSE saga_id IS NULL AND url IS NULL END"
)


def upgrade() -> None:
    op.create_table(
        "event_seen",
        sa.Column("reader", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("event", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("reader", "source", "id", name=op.f("pk_event_seen")),
    )
    op.create_index("ix_event_seen_at", "event_seen", ["at"])
    op.add_column(
        "service",
        sa.Column(
            "subscribes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
    )
    op.add_column("notice", sa.Column("service", sa.String(), nullable=True))
    op.alter_column("notice", "saga_id", existing_type=sa.UUID(), nullable=True)
    op.alter_column("notice", "url", existing_type=sa.String(), nullable=True)
    op.create_check_constraint("of_a_saga_or_of_an_event", "notice", _OF_ONE)
    op.add_column("dead_letter", sa.Column("service", sa.String(), nullable=True))
    op.add_column("dead_letter", sa.Column("event", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.alter_column("dead_letter", "saga_id", existing_type=sa.UUID(), nullable=True)
    op.create_check_constraint("of_a_saga_or_of_an_event", "dead_letter", "(saga_id IS NULL) = (event IS NOT NULL)")


def downgrade() -> None:
    op.execute("DELETE FROM dead_letter WHERE saga_id IS NULL")
    op.drop_constraint("of_a_saga_or_of_an_event", "dead_letter", type_="check")
    op.alter_column("dead_letter", "saga_id", existing_type=sa.UUID(), nullable=False)
    op.drop_column("dead_letter", "event")
    op.drop_column("dead_letter", "service")
    op.execute("DELETE FROM notice WHERE saga_id IS NULL")
    op.drop_constraint("of_a_saga_or_of_an_event", "notice", type_="check")
    op.alter_column("notice", "url", existing_type=sa.String(), nullable=False)
    op.alter_column("notice", "saga_id", existing_type=sa.UUID(), nullable=False)
    op.drop_column("notice", "service")
    op.drop_column("service", "subscribes")
    op.drop_index("ix_event_seen_at", table_name="event_seen")
    op.drop_table("event_seen")
