"""Indexes: the one that late pages of many comparisons pass over says which of them are an evaluation's, and prompts and answers
find what names them, so that they can be deleted."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

NAMING = (
    ("generated_answers", "prompt_id"),
    ("evaluation_pairs", "new_response_id"),
    ("evaluation_pairs", "old_response_id"),
)


def upgrade() -> None:
    op.drop_index("ix_comparisons_project_id_id", table_name="comparisons")
    op.create_index("ix_comparisons_of_project", "comparisons", ["project_id", "id", "evaluation_id"])
    for table, column in NAMING:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def downgrade() -> None:
    for table, column in NAMING:
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    op.drop_index("ix_comparisons_of_project", table_name="comparisons")
    op.create_index("ix_comparisons_project_id_id", "comparisons", ["project_id", "id"])
