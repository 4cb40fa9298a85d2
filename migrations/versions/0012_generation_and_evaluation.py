"""Generation and evaluation: answers that jobs make, servers that give them, and blind batches of checkpoints."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, JsonOrNull, UTCDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), "kind IN ('training', 'export', 'generation')")
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("base_url", sa.String(length=500), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("key_variable", sa.String(length=120), nullable=False),
        sa.Column("key_sealed", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("price_prompt", sa.Double(), nullable=True),
        sa.Column("price_completion", sa.Double(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("created_by_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("removed_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_endpoints_created_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=False),
        sa.Column("opponent_id", sa.Integer(), nullable=True),
        sa.Column("opponent_model", sa.String(length=255), nullable=False),
        sa.Column("goal", sa.String(length=24), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("maximum", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("both_bad", sa.String(length=24), nullable=False),
        sa.Column("skips", sa.String(length=24), nullable=False),
        sa.Column("prompts", Json, nullable=False),
        sa.Column("sampling", Json, nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("plan_sha256", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("word", sa.String(length=24), nullable=False),
        sa.Column("verdict", JsonOrNull, nullable=True),
        sa.Column("verdict_at", UTCDateTime(), nullable=True),
        sa.Column("created_by_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("asking_at", UTCDateTime(), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint("(opponent_id IS NULL) = (opponent_model <> '')", name=op.f("ck_evaluations_opponent")),
        sa.CheckConstraint("share BETWEEN 1 AND 100", name=op.f("ck_evaluations_share")),
        sa.CheckConstraint(
            "state IN ('preparing', 'asking', 'decided', 'stopped', 'void')", name=op.f("ck_evaluations_state")
        ),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_evaluations_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_evaluations_created_by_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluations_job_id")),
        sa.ForeignKeyConstraint(["opponent_id"], ["checkpoints.id"], name=op.f("fk_evaluations_opponent_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_evaluations_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("job_id", name=op.f("uq_evaluations_job_id")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_evaluations_project_id_number")),
    )
    op.create_index("ix_evaluations_checkpoint_id", "evaluations", ["checkpoint_id"], unique=False)
    op.create_index("ix_evaluations_project_id_state", "evaluations", ["project_id", "state"], unique=False)

    op.create_table(
        "generation_plans",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("purpose", sa.String(length=24), nullable=False),
        sa.Column("prompts", Json, nullable=False),
        sa.Column("sources", Json, nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("sampling", Json, nullable=False),
        sa.Column("pairing", sa.String(length=24), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.Column("counts", Json, nullable=False),
        sa.CheckConstraint("purpose IN ('collection', 'evaluation')", name=op.f("ck_generation_plans_purpose")),
        sa.CheckConstraint("pairing IN ('across', 'round_robin', 'none')", name=op.f("ck_generation_plans_pairing")),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_generation_plans_evaluation_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_generation_plans_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_generation_plans")),
    )
    op.create_index(op.f("ix_generation_plans_evaluation_id"), "generation_plans", ["evaluation_id"], unique=False)

    op.create_table(
        "evaluation_pairs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("new_response_id", sa.Integer(), nullable=True),
        sa.Column("old_response_id", sa.Integer(), nullable=True),
        sa.Column("comparison_id", sa.Integer(), nullable=True),
        sa.Column("same", sa.Boolean(), nullable=False),
        sa.Column("left_out", sa.String(length=48), nullable=False),
        sa.Column("tells", Json, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparisons.id"], name=op.f("fk_evaluation_pairs_comparison_id")),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_pairs_evaluation_id")),
        sa.ForeignKeyConstraint(
            ["new_response_id"], ["responses.id"], name=op.f("fk_evaluation_pairs_new_response_id")
        ),
        sa.ForeignKeyConstraint(
            ["old_response_id"], ["responses.id"], name=op.f("fk_evaluation_pairs_old_response_id")
        ),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_evaluation_pairs_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_pairs")),
        sa.UniqueConstraint("comparison_id", name=op.f("uq_evaluation_pairs_comparison_id")),
        sa.UniqueConstraint("evaluation_id", "place", name=op.f("uq_evaluation_pairs_evaluation_id_place")),
        sa.UniqueConstraint("evaluation_id", "prompt_id", name=op.f("uq_evaluation_pairs_evaluation_id_prompt_id")),
    )
    op.create_index(op.f("ix_evaluation_pairs_prompt_id"), "evaluation_pairs", ["prompt_id"], unique=False)

    op.create_table(
        "generated_answers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("finish", sa.String(length=24), nullable=False),
        sa.Column("marks", Json, nullable=False),
        sa.Column("response_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("finish IN ('stop', 'length', 'failed')", name=op.f("ck_generated_answers_finish")),
        sa.ForeignKeyConstraint(["job_id"], ["generation_plans.job_id"], name=op.f("fk_generated_answers_job_id")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_generated_answers_prompt_id")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_generated_answers_response_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generated_answers")),
        sa.UniqueConstraint(
            "job_id", "prompt_id", "source", "sample", name=op.f("uq_generated_answers_job_id_prompt_id_source_sample")
        ),
    )
    op.create_index("ix_generated_answers_response_id", "generated_answers", ["response_id"], unique=False)

    with op.batch_alter_table("comparisons") as comparisons:
        comparisons.add_column(sa.Column("evaluation_id", sa.Integer(), nullable=True))
        comparisons.create_foreign_key(op.f("fk_comparisons_evaluation_id"), "evaluations", ["evaluation_id"], ["id"])
    where = sa.text("evaluation_id IS NOT NULL")
    op.create_index(
        "ix_comparisons_evaluation_id", "comparisons", ["evaluation_id"], sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    with op.batch_alter_table("comparisons") as comparisons:
        comparisons.drop_index("ix_comparisons_evaluation_id")
        comparisons.drop_constraint("fk_comparisons_evaluation_id", type_="foreignkey")
        comparisons.drop_column("evaluation_id")
    for table in ("generated_answers", "evaluation_pairs", "generation_plans", "evaluations", "endpoints"):
        op.drop_table(table)
    # The earlier version knows no such jobs.
    op.execute("DELETE FROM job_events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'generation')")
    op.execute("DELETE FROM jobs WHERE kind = 'generation'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), "kind IN ('training', 'export')")
