"""By which arm a pair came to be asked, which arms a generation has, and what a checkpoint thinks of its answers. Pairs that a
generation made before had been taken without a choice, so they are of the random arm."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

ARMS = "arm IN ('random', 'margin', 'disagreement', 'diversity')"
OF_GENERATIONS = """
UPDATE comparisons SET arm = 'random' WHERE evaluation_id IS NULL AND import_id IS NULL
AND EXISTS (SELECT 1 FROM generated_answers AS one WHERE one.response_id = comparisons.first_response_id)
AND EXISTS (SELECT 1 FROM generated_answers AS other WHERE other.response_id = comparisons.second_response_id)
"""


def upgrade() -> None:
    with op.batch_alter_table("comparisons") as comparisons:
        comparisons.add_column(sa.Column("arm", sa.String(length=24), nullable=True))
        comparisons.create_check_constraint(op.f("ck_comparisons_arm"), sa.text(ARMS))
    op.execute(OF_GENERATIONS)
    op.add_column("generated_answers", sa.Column("reward", sa.Double(), nullable=True))
    op.add_column("generation_plans", sa.Column("arms", Json, server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("generation_plans", "arms")
    op.drop_column("generated_answers", "reward")
    with op.batch_alter_table("comparisons") as comparisons:
        comparisons.drop_constraint(op.f("ck_comparisons_arm"))
        comparisons.drop_column("arm")
