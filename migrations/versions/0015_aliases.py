"""Aliases: a team's names on checkpoints, with their history."""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), nullable=True),
        sa.Column("needs_verdict", sa.String(length=24), nullable=False),
        sa.Column("needs_approval", sa.Boolean(), nullable=False),
        sa.Column("asked_id", sa.Integer(), nullable=True),
        sa.Column("asked_by_id", sa.Integer(), nullable=True),
        sa.Column("asked_at", UTCDateTime(), nullable=True),
        sa.Column("asked_why", sa.String(length=500), nullable=False),
        sa.Column("moved_at", UTCDateTime(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("asked_id IS NULL OR asked_by_id IS NOT NULL", name=op.f("ck_aliases_asked")),
        sa.CheckConstraint("needs_verdict IN ('none', 'not_worse', 'better')", name=op.f("ck_aliases_needs_verdict")),
        sa.ForeignKeyConstraint(["asked_by_id"], ["users.id"], name=op.f("fk_aliases_asked_by_id")),
        sa.ForeignKeyConstraint(["asked_id"], ["checkpoints.id"], name=op.f("fk_aliases_asked_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_aliases_checkpoint_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_aliases_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_aliases_project_id_name")),
    )
    op.create_index(op.f("ix_aliases_checkpoint_id"), "aliases", ["checkpoint_id"], unique=False)
    op.create_table(
        "alias_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias_id", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("deed", sa.String(length=24), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("asked_by_id", sa.Integer(), nullable=True),
        sa.Column("checkpoint_id", sa.Integer(), nullable=True),
        sa.Column("previous_id", sa.Integer(), nullable=True),
        sa.Column("evaluation_id", sa.Integer(), nullable=True),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.CheckConstraint(
            "deed IN ('asked', 'moved', 'declined', 'back', 'rule', 'removed')", name=op.f("ck_alias_events_deed")
        ),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name=op.f("fk_alias_events_alias_id")),
        sa.ForeignKeyConstraint(["asked_by_id"], ["users.id"], name=op.f("fk_alias_events_asked_by_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_alias_events_checkpoint_id")),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_alias_events_evaluation_id")),
        sa.ForeignKeyConstraint(["previous_id"], ["checkpoints.id"], name=op.f("fk_alias_events_previous_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_alias_events_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_events")),
    )
    op.create_index("ix_alias_events_alias_id_id", "alias_events", ["alias_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_table("alias_events")
    op.drop_table("aliases")
