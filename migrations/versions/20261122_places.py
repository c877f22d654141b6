"""places of definitions with max_concurrent"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("saga", sa.Column("place", sa.String(), nullable=True))
    op.add_column("saga", sa.Column("waits_since", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint("waits_since_when", "saga", "(place = 'waited for') = (waits_since IS NOT NULL)")
    op.create_index(
        "ix_saga_place",
        "saga",
        ["definition", "place", "waits_since", "id"],
        unique=False,
        postgresql_where=sa.text("place IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_saga_place", table_name="saga", postgresql_where=sa.text("place IS NOT NULL"))
    op.drop_constraint("waits_since_when", "saga", type_="check")
    op.drop_column("saga", "waits_since")
    op.drop_column("saga", "place")
