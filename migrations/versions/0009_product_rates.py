"""Workers say how fast their device multiplies matrices, by number type."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("workers") as table:
        table.add_column(sa.Column("product_gflops", Json, server_default="{}", nullable=False))
    # Only for the rows that are there: new ones come with a value.
    with op.batch_alter_table("workers") as table:
        table.alter_column("product_gflops", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("workers") as table:
        table.drop_column("product_gflops")
