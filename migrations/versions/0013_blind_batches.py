"""Slots of evaluations, which stand in no ordinary order; prompts that are kept for evaluations; runs that are evaluated by themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ORDINARY = "evaluation_id IS NULL"
INDEXES = (
    ("ix_slots_next", ["place"], "state = 'open' AND reopened_at IS NULL"),
    ("ix_slots_reopened", ["reopened_at"], "reopened_at IS NOT NULL"),
    ("ix_slots_leased", ["leased_until"], "state = 'leased'"),
)
OF_EVALUATIONS = "state <> 'done' AND evaluation_id IS NOT NULL"


def upgrade() -> None:
    for name, _, _ in INDEXES:
        op.drop_index(name, "slots")
    with op.batch_alter_table("slots") as slots:
        slots.add_column(sa.Column("evaluation_id", sa.Integer(), nullable=True))
        slots.create_foreign_key(op.f("fk_slots_evaluation_id"), "evaluations", ["evaluation_id"], ["id"])
        slots.create_check_constraint(
            op.f("ck_slots_evaluation"), sa.text("evaluation_id IS NULL OR reopened_at IS NULL")
        )
    for name, columns, where in INDEXES:
        _index(name, ["project_id", *columns], f"{where} AND {ORDINARY}")
    _index("ix_slots_evaluation", ["evaluation_id", "comparison_id", "ordinal"], OF_EVALUATIONS)
    for table in ("prompts", "prompt_groups", "extracts"):
        _splits(table, "split IN ('train', 'eval', 'kept')")
    for table, name, default in (
        ("project_counts", "asking", sa.text("0")),
        ("projects", "evaluates_runs", sa.false()),
        ("evaluations", "stop", sa.text("''")),
    ):
        kinds = {"asking": sa.Integer(), "evaluates_runs": sa.Boolean(), "stop": sa.String(length=24)}
        with op.batch_alter_table(table) as rows:
            rows.add_column(sa.Column(name, kinds[name], nullable=False, server_default=default))
        with op.batch_alter_table(table) as rows:
            rows.alter_column(name, existing_type=kinds[name], server_default=None)


def downgrade() -> None:
    for table, name in (("evaluations", "stop"), ("projects", "evaluates_runs"), ("project_counts", "asking")):
        with op.batch_alter_table(table) as rows:
            rows.drop_column(name)
    # The earlier version knows two splits, and must not train on what was kept.
    for table in ("prompts", "prompt_groups", "extracts"):
        op.execute(f"UPDATE {table} SET split = 'eval' WHERE split = 'kept'")  # noqa: S608 - names of our own
        _splits(table, "split IN ('train', 'eval')")
    op.execute(
        "UPDATE judgments SET slot_id = NULL WHERE slot_id IN (SELECT id FROM slots WHERE evaluation_id IS NOT NULL)"
    )
    op.execute("DELETE FROM slots WHERE evaluation_id IS NOT NULL")
    op.drop_index("ix_slots_evaluation", "slots")
    for name, _, _ in INDEXES:
        op.drop_index(name, "slots")
    with op.batch_alter_table("slots") as slots:
        slots.drop_constraint(op.f("ck_slots_evaluation"), type_="check")
        slots.drop_constraint(op.f("fk_slots_evaluation_id"), type_="foreignkey")
        slots.drop_column("evaluation_id")
    for name, columns, where in INDEXES:
        _index(name, ["project_id", *columns], where)


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "slots", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _splits(table: str, rule: str) -> None:
    with op.batch_alter_table(table) as rows:
        rows.drop_constraint(op.f(f"ck_{table}_split"), type_="check")
        rows.create_check_constraint(op.f(f"ck_{table}_split"), sa.text(rule))
