"""Which pairs each snapshot holds, what of it was excluded later, and runs made again without that. Snapshots of before are looked
through in the background once the server runs (`snapshots.indexed`)."""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("indexed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "snapshot_blocks",
        sa.Column("snapshot_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("members", sa.LargeBinary(length=512), nullable=False),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_snapshot_blocks_snapshot_id")),
        sa.PrimaryKeyConstraint("snapshot_id", "block", name=op.f("pk_snapshot_blocks")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "exclusion_marks",
        sa.Column("exclusion_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("snapshot_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["exclusion_id"], ["exclusions.id"], name=op.f("fk_exclusion_marks_exclusion_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_exclusion_marks_snapshot_id")),
        sa.PrimaryKeyConstraint("exclusion_id", "snapshot_id", name=op.f("pk_exclusion_marks")),
    )
    op.create_index(op.f("ix_exclusion_marks_snapshot_id"), "exclusion_marks", ["snapshot_id"])
    op.create_table(
        "retrainings",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("of_job_id", sa.Integer(), nullable=False),
        sa.Column("pairs_left_out", sa.Integer(), nullable=False),
        sa.Column("pairs_decided_anew", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["training_runs.job_id"], name=op.f("fk_retrainings_job_id")),
        sa.ForeignKeyConstraint(["of_job_id"], ["training_runs.job_id"], name=op.f("fk_retrainings_of_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_retrainings")),
    )
    op.create_index(op.f("ix_retrainings_of_job_id"), "retrainings", ["of_job_id"])


def downgrade() -> None:
    op.drop_table("retrainings")
    op.drop_table("exclusion_marks")
    op.drop_table("snapshot_blocks")
    op.drop_column("snapshots", "indexed")
