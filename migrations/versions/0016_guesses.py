"""Guesses of evaluators, after a batch, which answer was new."""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation_guesses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("response_id", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_guesses_evaluation_id")
        ),
        sa.ForeignKeyConstraint(["pair_id"], ["evaluation_pairs.id"], name=op.f("fk_evaluation_guesses_pair_id")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_evaluation_guesses_response_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_evaluation_guesses_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_guesses")),
        sa.UniqueConstraint("pair_id", "user_id", name=op.f("uq_evaluation_guesses_pair_id_user_id")),
    )
    for column in ("evaluation_id", "user_id"):
        op.create_index(op.f(f"ix_evaluation_guesses_{column}"), "evaluation_guesses", [column], unique=False)


def downgrade() -> None:
    op.drop_table("evaluation_guesses")
