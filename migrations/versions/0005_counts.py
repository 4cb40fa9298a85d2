"""kept counts, and places of slots

`project_counts` and `evaluator_counts` hold what pages ask for; they are counted here once from all rows, and kept by each
transaction from then on. `slots.place` puts the order of asking into one number. Indexes for each question of the desk take the place
of two that every judgment had to write.
"""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PLACE = "(CAST(1000000 - priority AS BIGINT) * 64 + ordinal) * 2147483648 + comparison_id"
CHECKS = {"reopened": "state = 'open' OR reopened_at IS NULL", "place": f"place = {PLACE}"}
INDEXES = (
    ("ix_slots_next", ["place"], "state = 'open' AND reopened_at IS NULL"),
    ("ix_slots_reopened", ["reopened_at"], "reopened_at IS NOT NULL"),
    ("ix_slots_held", ["holder_id", "leased_until"], "state = 'leased'"),
    ("ix_slots_leased", ["leased_until"], "state = 'leased'"),
)
COUNT_PROJECTS = """
INSERT INTO project_counts (project_id, comparisons, golds, evals, wanted, offered, judged, arrivals)
SELECT p.id, COALESCE(c.comparisons, 0), COALESCE(c.golds, 0), COALESCE(c.evals, 0), COALESCE(s.wanted, 0),
       COALESCE(s.offered, 0), COALESCE(c.comparisons, 0) - COALESCE(s.waiting, 0), 0
FROM projects p
LEFT JOIN (
    SELECT comparisons.project_id, count(*) AS comparisons, count(gold_choice) AS golds,
           count(CASE WHEN prompts.split = 'eval' THEN 1 END) AS evals
    FROM comparisons JOIN prompts ON prompts.id = comparisons.prompt_id GROUP BY comparisons.project_id
) c ON c.project_id = p.id
LEFT JOIN (
    SELECT project_id, count(*) AS wanted, count(DISTINCT CASE WHEN state = 'open' THEN comparison_id END) AS offered,
           count(DISTINCT CASE WHEN state <> 'done' THEN comparison_id END) AS waiting
    FROM slots GROUP BY project_id
) s ON s.project_id = p.id
"""
COUNT_EVALUATORS = """
INSERT INTO evaluator_counts (project_id, user_id, stored, judgments, imported, done, known_offered, offered, judged)
SELECT j.project_id, j.user_id, j.stored, j.judgments, j.imported, COALESCE(s.done, 0), COALESCE(k.known, 0), 0, 0
FROM (
    SELECT project_id, user_id, count(*) AS stored, count(CASE WHEN NOT superseded THEN 1 END) AS judgments,
           count(CASE WHEN NOT superseded AND source = 'import' THEN 1 END) AS imported
    FROM judgments GROUP BY project_id, user_id
) j
LEFT JOIN (
    SELECT project_id, holder_id, count(*) AS done FROM slots WHERE state = 'done' GROUP BY project_id, holder_id
) s ON s.project_id = j.project_id AND s.holder_id = j.user_id
LEFT JOIN (
    SELECT project_id, user_id, count(DISTINCT comparison_id) AS known FROM judgments
    WHERE EXISTS (SELECT 1 FROM slots WHERE slots.comparison_id = judgments.comparison_id AND state = 'open')
    GROUP BY project_id, user_id
) k ON k.project_id = j.project_id AND k.user_id = j.user_id
"""


def upgrade() -> None:
    op.create_table(
        "project_counts",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("comparisons", "golds", "evals", "wanted", "offered", "judged", "arrivals")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_counts_project_id")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_project_counts")),
    )
    op.create_table(
        "evaluator_counts",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("stored", "judgments", "imported", "done", "known_offered", "offered", "judged")
        ),
        sa.Column("place", sa.BigInteger(), nullable=True),
        sa.Column("place_arrivals", sa.Integer(), nullable=True),
        sa.Column("reopened_until", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_evaluator_counts_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_evaluator_counts_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_evaluator_counts")),
    )
    op.execute(COUNT_PROJECTS)
    op.execute(COUNT_EVALUATORS)

    op.drop_index("ix_slots_next", "slots")
    op.add_column("slots", sa.Column("place", sa.BigInteger(), nullable=True))
    op.add_column("slots", sa.Column("reopened_at", UTCDateTime(), nullable=True))
    op.execute(f"UPDATE slots SET place = {PLACE}")  # noqa: S608 - a constant
    with op.batch_alter_table("slots") as batch_op:
        batch_op.drop_index("ix_slots_holder_id")
        batch_op.alter_column("place", existing_type=sa.BigInteger(), nullable=False)
        for name, rule in CHECKS.items():
            batch_op.create_check_constraint(op.f(f"ck_slots_{name}"), sa.text(rule))
    for name, columns, where in INDEXES:
        op.create_index(
            name, "slots", ["project_id", *columns], sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )


def downgrade() -> None:
    for name, _, _ in INDEXES:
        op.drop_index(name, "slots")
    with op.batch_alter_table("slots") as batch_op:
        for name in CHECKS:
            batch_op.drop_constraint(op.f(f"ck_slots_{name}"), type_="check")
        batch_op.drop_column("place")
        batch_op.drop_column("reopened_at")
        batch_op.create_index("ix_slots_holder_id", ["holder_id"])
    op.create_index(
        "ix_slots_next", "slots", ["project_id", "state", sa.text("priority DESC"), "ordinal", "comparison_id"]
    )
    op.drop_table("evaluator_counts")
    op.drop_table("project_counts")
