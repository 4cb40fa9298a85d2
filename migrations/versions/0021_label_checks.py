"""Label checks: a kind of job, what each was asked for and found, and the pairs that its lists hold."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, JsonOrNull

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

BEFORE = "kind IN ('training', 'export', 'generation')"
NOW = "kind IN ('training', 'export', 'generation', 'label_check')"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), NOW)
    op.create_table(
        "label_checks",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("of_job_id", sa.Integer(), nullable=False),
        sa.Column("plan", Json, nullable=False),
        sa.Column("plan_key", sa.String(length=64), nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("result", JsonOrNull, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_label_checks_job_id")),
        sa.ForeignKeyConstraint(["of_job_id"], ["training_runs.job_id"], name=op.f("fk_label_checks_of_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_label_checks")),
        sa.UniqueConstraint("of_job_id", "plan_key", name=op.f("uq_label_checks_of_job_id_plan_key")),
    )
    op.create_table(
        "checked_pairs",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("comparison_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("contradicts", sa.Integer(), nullable=True),
        sa.Column("lowers", sa.Integer(), nullable=True),
        sa.Column("first_chosen", sa.Boolean(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("votes_chosen", sa.Integer(), nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=False)
            for name in ("margin", "ches", "ches_normalised", "on_policy_gap")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["label_checks.job_id"], name=op.f("fk_checked_pairs_job_id")),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparisons.id"], name=op.f("fk_checked_pairs_comparison_id")),
        sa.PrimaryKeyConstraint("job_id", "comparison_id", name=op.f("pk_checked_pairs")),
        sa.UniqueConstraint("job_id", "contradicts", name=op.f("uq_checked_pairs_job_id_contradicts")),
        sa.UniqueConstraint("job_id", "lowers", name=op.f("uq_checked_pairs_job_id_lowers")),
    )
    op.create_index(op.f("ix_checked_pairs_comparison_id"), "checked_pairs", ["comparison_id"])


def downgrade() -> None:
    op.drop_table("checked_pairs")
    op.drop_table("label_checks")
    # The earlier version knows no such jobs.
    op.execute("DELETE FROM job_events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'label_check')")
    op.execute("DELETE FROM jobs WHERE kind = 'label_check'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), BEFORE)
