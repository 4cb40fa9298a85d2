"""The index that late pages of many comparisons pass over also says which of them are an evaluation's."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_comparisons_project_id_id", table_name="comparisons")
    op.create_index("ix_comparisons_of_project", "comparisons", ["project_id", "id", "evaluation_id"])


def downgrade() -> None:
    op.drop_index("ix_comparisons_of_project", table_name="comparisons")
    op.create_index("ix_comparisons_project_id_id", "comparisons", ["project_id", "id"])
