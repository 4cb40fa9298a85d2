"""A job's own random id, beside its number, which a database that was put back may give again. Earlier jobs have none."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("uid", sa.String(length=32), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("jobs", "uid")
