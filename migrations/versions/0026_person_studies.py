"""Whose preferences a run learned: studies, and their runs."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, JsonOrNull, UTCDateTime

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "person_studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("of_job_id", sa.Integer(), nullable=False),
        sa.Column("people", Json, nullable=False),
        sa.Column("seeds", Json, nullable=False),
        sa.Column("result", JsonOrNull, nullable=True),
        sa.Column("created_by_id", sa.Integer(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("compared_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["of_job_id"], ["training_runs.job_id"], name=op.f("fk_person_studies_of_job_id")),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_person_studies_created_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_studies")),
    )
    waiting = sa.text("compared_at IS NULL")
    op.create_index(
        "ix_person_studies_waiting", "person_studies", ["id"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_index(op.f("ix_person_studies_of_job_id"), "person_studies", ["of_job_id"])
    op.create_table(
        "person_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["person_studies.id"], name=op.f("fk_person_runs_study_id")),
        sa.ForeignKeyConstraint(["job_id"], ["training_runs.job_id"], name=op.f("fk_person_runs_job_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_person_runs_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_runs")),
        sa.UniqueConstraint("study_id", "user_id", "seed", name=op.f("uq_person_runs_study_id_user_id_seed")),
    )
    op.create_index(op.f("ix_person_runs_job_id"), "person_runs", ["job_id"])
    op.create_index(op.f("ix_person_runs_user_id"), "person_runs", ["user_id"])


def downgrade() -> None:
    op.drop_table("person_runs")
    op.drop_table("person_studies")
