"""what went wrong, in columns of its own"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Of rows that are there already. `app.saga.trouble` says the same of a state, and tests compare the two. The healthy
# ones are most, and are left alone.
FILL = """
    UPDATE saga SET
        blamed_step = b.step,
        trouble = (e.error ->> 'code') || coalesce('-' || (e.error ->> 'status'), ''),
        told = (
            SELECT string_agg(l.line, chr(10) ORDER BY l.place) FROM (
                SELECT m.line, min(m.place) AS place FROM jsonb_array_elements_text(
                    jsonb_path_query_array(coalesce(e.error, 'null'), '$.message')
                    || jsonb_path_query_array(u.document, '$.error.message')
                    || jsonb_path_query_array(u.document, '$.attention.reason')
                    || jsonb_path_query_array(u.document, '$.steps[*][1 to 2].error.message')
                ) WITH ORDINALITY AS m(line, place) GROUP BY m.line) AS l)
    FROM saga AS u
    CROSS JOIN LATERAL (
        SELECT coalesce(u.document #>> '{attention,steps,0}', u.document #>> '{error,step}') AS step) AS b
    CROSS JOIN LATERAL (SELECT coalesce(
        jsonb_path_query_first(
            u.document,
            CASE WHEN u.state IN ('COMPENSATING', 'COMPENSATION_FAILED') THEN '$.steps[*][2].error ? (@.step == $step)'
                ELSE '$.steps[*][1].error ? (@.step == $step)' END::jsonpath,
            jsonb_build_object('step', b.step)),
        CASE WHEN u.attention THEN jsonb_build_object(
            'code', u.document #> '{attention,code}', 'message', u.document #> '{attention,reason}') END,
        u.document -> 'error') AS error) AS e
    WHERE u.id = saga.id AND u.state <> 'COMPLETED'
        AND (u.attention OR u.document ? 'error' OR jsonb_path_exists(u.document, '$.steps[*][1 to 2].error'))"""


def upgrade() -> None:
    op.add_column("saga", sa.Column("blamed_step", sa.String(), nullable=True))
    op.add_column("saga", sa.Column("trouble", sa.String(), nullable=True))
    op.add_column("saga", sa.Column("told", sa.String(), nullable=True))
    op.execute(FILL)
    op.create_check_constraint(
        "trouble_is_told", "saga", "told IS NOT NULL OR (blamed_step IS NULL AND trouble IS NULL)"
    )
    op.create_index(
        "ix_saga_told",
        "saga",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=sa.text("told IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_saga_told", table_name="saga", postgresql_where=sa.text("told IS NOT NULL"))
    op.drop_constraint("trouble_is_told", "saga", type_="check")
    op.drop_column("saga", "told")
    op.drop_column("saga", "trouble")
    op.drop_column("saga", "blamed_step")
