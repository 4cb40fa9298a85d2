"""Members of projects, and tokens that are narrowed to some of them.

Every project of before is open to everybody: each account goes on acting in it by its own role. A downgrade opens all
projects again, since an earlier version knows no members, and revokes the narrowed tokens, which it would let do more."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ROLE = "role IN ('evaluator', 'lead', 'engineer')"


def upgrade() -> None:
    with op.batch_alter_table("projects") as batch:
        batch.add_column(sa.Column("open_to_everybody", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("projects") as batch:
        batch.alter_column("open_to_everybody", server_default=None)
    with op.batch_alter_table("api_tokens") as batch:
        batch.add_column(sa.Column("narrowed", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("only_reads", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("api_tokens") as batch:
        batch.alter_column("narrowed", server_default=None)
        batch.alter_column("only_reads", server_default=None)
    op.create_table(
        "memberships",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=24), nullable=False),
        sa.Column("added_by_id", sa.Integer(), nullable=True),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(ROLE, name=op.f("ck_memberships_role")),
        sa.ForeignKeyConstraint(["added_by_id"], ["users.id"], name=op.f("fk_memberships_added_by_id")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_memberships_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"], unique=False)
    op.create_table(
        "promised_memberships",
        sa.Column("link_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=24), nullable=False),
        sa.CheckConstraint(ROLE, name=op.f("ck_promised_memberships_role")),
        sa.ForeignKeyConstraint(
            ["link_id"], ["links.id"], name=op.f("fk_promised_memberships_link_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_promised_memberships_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("link_id", "project_id", name=op.f("pk_promised_memberships")),
    )
    op.create_table(
        "token_projects",
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_token_projects_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["token_id"], ["api_tokens.id"], name=op.f("fk_token_projects_token_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_id", "project_id", name=op.f("pk_token_projects")),
    )


def downgrade() -> None:
    op.execute(
        "UPDATE api_tokens SET revoked_at = CURRENT_TIMESTAMP WHERE (narrowed OR only_reads) AND revoked_at IS NULL"
    )
    op.drop_table("token_projects")
    op.drop_table("promised_memberships")
    op.drop_table("memberships")
    with op.batch_alter_table("api_tokens") as batch:
        batch.drop_column("only_reads")
        batch.drop_column("narrowed")
    with op.batch_alter_table("projects") as batch:
        batch.drop_column("open_to_everybody")
