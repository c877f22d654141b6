"""services that an operator has paused"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("service", sa.Column("paused_at", sa.DateTime(timezone=True)))
    op.add_column("service", sa.Column("paused_by", sa.String()))
    op.add_column("service", sa.Column("pause_reason", sa.String()))
    op.create_check_constraint(
        op.f("ck_service_paused_by_somebody"), "service", "num_nulls(paused_at, paused_by, pause_reason) IN (0, 3)"
    )


def downgrade() -> None:
    for column in ("pause_reason", "paused_by", "paused_at"):
        op.drop_column("service", column)
