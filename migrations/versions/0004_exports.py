"""Exports of checkpoints: what a job made, which form it has, its files and the proof of them."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(length=24), nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("proof", Json, nullable=False),
        sa.CheckConstraint("format IN ('merged', 'gguf-f16', 'gguf-q8_0')", name=op.f("ck_exports_format")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_exports_checkpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_exports_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_exports")),
        sa.UniqueConstraint("checkpoint_id", "format", name=op.f("uq_exports_checkpoint_id_format")),
    )


def downgrade() -> None:
    op.drop_table("exports")
    # The earlier version knows no such jobs.
    op.execute("DELETE FROM job_events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'export')")
    op.execute("DELETE FROM jobs WHERE kind = 'export'")
