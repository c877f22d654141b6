"""notices for notify_url"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("tenant", sa.String(), server_default="", nullable=False),
        sa.Column("saga_id", sa.UUID(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.CheckConstraint("due_at IS NOT NULL OR last_error IS NOT NULL", name=op.f("ck_notice_given_up_says_why")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
    )
    op.create_index("ix_notice_first", "notice", ["due_at"], postgresql_where=sa.text("attempts = 0"))
    op.create_index("ix_notice_again", "notice", ["due_at"], postgresql_where=sa.text("attempts > 0"))
    op.create_index(
        "ix_notice_created_at", "notice", [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")]
    )


def downgrade() -> None:
    op.drop_table("notice")
