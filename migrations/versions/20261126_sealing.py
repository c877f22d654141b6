"""sealed events and notices, as payloads are"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("notice", "event_seen", "dead_letter")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("codec", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    # What is sealed would be taken for plain: `SAGA_PAYLOAD_KEYS="plain ..."` and `saga keys rotate-payloads` open it.
    for table in TABLES:
        op.execute(
            f"DO $$ BEGIN IF EXISTS (SELECT FROM {table} WHERE codec <> 0) THEN"
            f" RAISE EXCEPTION 'rows of {table} are sealed: open them with saga keys rotate-payloads'; END IF; END $$"
        )
    for table in TABLES:
        op.drop_column(table, "codec")
