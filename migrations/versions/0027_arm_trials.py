"""Trials of arms: which runs each has, and what it came to."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, JsonOrNull, UTCDateTime

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

STATES = "state IN ('preparing', 'training', 'finished', 'failed', 'stopped')"
LEFT_OUT = "left_out IN ('random', 'margin', 'disagreement', 'diversity')"
LEADS_TO = {"project_id": "projects.id", "of_job_id": "training_runs.job_id", "created_by_id": "users.id"}


def upgrade() -> None:
    op.create_table(
        "arm_trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("of_job_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("plan", Json, nullable=False),
        sa.Column("result", JsonOrNull, nullable=True),
        sa.Column("problem", sa.String(length=1000), nullable=False),
        sa.Column("created_by_id", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(STATES, name=op.f("ck_arm_trials_state")),
        sa.CheckConstraint(
            "(state IN ('preparing', 'training')) = (ended_at IS NULL)", name=op.f("ck_arm_trials_ended")
        ),
        sa.CheckConstraint("(state = 'finished') = (result IS NOT NULL)", name=op.f("ck_arm_trials_result")),
        *(
            sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_arm_trials_{column}"))
            for column, target in LEADS_TO.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arm_trials")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_arm_trials_project_id_number")),
    )
    active = sa.text("state IN ('preparing', 'training')")
    op.create_index(
        "uq_arm_trials_active", "arm_trials", ["project_id"], unique=True, sqlite_where=active, postgresql_where=active
    )
    op.create_table(
        "arm_trial_runs",
        sa.Column("trial_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seed", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("left_out", sa.String(length=24), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.Column("judgments", sa.Integer(), nullable=False),
        sa.CheckConstraint(LEFT_OUT, name=op.f("ck_arm_trial_runs_left_out")),
        sa.ForeignKeyConstraint(["trial_id"], ["arm_trials.id"], name=op.f("fk_arm_trial_runs_trial_id")),
        sa.ForeignKeyConstraint(["job_id"], ["training_runs.job_id"], name=op.f("fk_arm_trial_runs_job_id")),
        sa.PrimaryKeyConstraint("trial_id", "seed", "left_out", name=op.f("pk_arm_trial_runs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_arm_trial_runs_job_id")),
    )


def downgrade() -> None:
    op.drop_table("arm_trial_runs")
    op.drop_table("arm_trials")
