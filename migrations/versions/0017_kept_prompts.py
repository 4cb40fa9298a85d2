"""An index of the prompts that are kept for evaluation: few among many."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("split = 'kept'")
    op.create_index(
        "ix_prompts_kept", "prompts", ["project_id", "content_hash"], sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    op.drop_index("ix_prompts_kept", "prompts")
