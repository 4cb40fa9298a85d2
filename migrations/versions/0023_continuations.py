"""Runs that start from a checkpoint instead of their base model."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "continuations",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_continuations_checkpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["training_runs.job_id"], name=op.f("fk_continuations_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_continuations")),
    )
    op.create_index(op.f("ix_continuations_checkpoint_id"), "continuations", ["checkpoint_id"])


def downgrade() -> None:
    op.drop_table("continuations")
