"""Rounds of the loop: what each was to do, where it stands, and what it made."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, UTCDateTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATES = "state IN ('running', 'failed', 'stopped', 'finished')"
STEPS = "step IN ('answers', 'judgments', 'snapshot', 'training', 'evaluation', 'verdict')"
ENDED = (
    "(state IN ('stopped', 'finished') AND ended_at IS NOT NULL)"
    " OR (state IN ('running', 'failed') AND ended_at IS NULL)"
)
LEADS_TO = {
    "project_id": "projects",
    "generation_job_id": "jobs",
    "snapshot_id": "snapshots",
    "training_job_id": "jobs",
    "checkpoint_id": "checkpoints",
    "evaluation_id": "evaluations",
    "created_by_id": "users",
}


def upgrade() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("step", sa.String(length=24), nullable=False),
        sa.Column("plan", Json, nullable=False),
        sa.Column("generation_job_id", sa.Integer(), nullable=True),
        sa.Column("judged_before", sa.Integer(), nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=True),
        sa.Column("training_job_id", sa.Integer(), nullable=True),
        sa.Column("checkpoint_id", sa.Integer(), nullable=True),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(length=1000), nullable=False),
        sa.Column("created_by_id", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(STATES, name=op.f("ck_rounds_state")),
        sa.CheckConstraint(STEPS, name=op.f("ck_rounds_step")),
        sa.CheckConstraint(ENDED, name=op.f("ck_rounds_ended")),
        *(
            sa.ForeignKeyConstraint([column], [f"{table}.id"], name=op.f(f"fk_rounds_{column}"))
            for column, table in LEADS_TO.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rounds")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_rounds_project_id_number")),
    )
    unended = sa.text("state IN ('running', 'failed')")
    op.create_index(
        "uq_rounds_active", "rounds", ["project_id"], unique=True, sqlite_where=unended, postgresql_where=unended
    )


def downgrade() -> None:
    op.drop_table("rounds")
