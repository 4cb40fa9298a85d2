"""Freezes of large projects that go on in the background."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

Json = sa.JSON().with_variant(JSONB(), "postgresql")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "freezings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("rule", Json, nullable=False),
        sa.Column("run", Json, nullable=True),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=True),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name=op.f("ck_freezings_state")),
        sa.CheckConstraint("state <> 'done' OR snapshot_id IS NOT NULL", name=op.f("ck_freezings_done")),
        sa.CheckConstraint("(state = 'failed') = (error <> '')", name=op.f("ck_freezings_failed")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_freezings_job_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_freezings_project_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_freezings_snapshot_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_freezings_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_freezings")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_freezings_project_id"), "freezings", ["project_id"])


def downgrade() -> None:
    op.drop_table("freezings")
