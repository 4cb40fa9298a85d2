"""Imports: what became of columns, drafts, kept mappings; people whose votes came with a file; extracts;
answers that go on over several turns.

`imports.lines` is counted again, for a line may hold several pairs: for earlier imports it is the sum that it was.
"""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, UTCDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COUNTS = ("lines", "filled")
STATES = "state IN ('draft', 'running', 'done', 'failed')"
EARLIER_STATES = "state IN ('running', 'done', 'failed')"
RATERS = "NOT is_imported OR (NOT active AND password_hash IS NULL)"


def upgrade() -> None:
    for name in COUNTS:
        op.add_column("imports", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("imports", sa.Column("mapping", Json, nullable=True))
    op.add_column("imports", sa.Column("report", Json, nullable=True))
    op.add_column("imports", sa.Column("upload", sa.String(length=64), nullable=True))
    op.add_column("imports", sa.Column("stop_requested", sa.Boolean(), nullable=True))
    op.execute("UPDATE imports SET lines = added + duplicates + rejected, filled = 0, mapping = '{}', upload = ''")
    op.execute("""UPDATE imports SET report = '{"recognised": "", "columns": {}, "notes": {}, "differences": []}'""")
    op.execute(sa.text("UPDATE imports SET stop_requested = :no").bindparams(no=False))
    with op.batch_alter_table("imports") as batch_op:
        for name in COUNTS:
            batch_op.alter_column(name, existing_type=sa.Integer(), nullable=False)
        batch_op.alter_column("mapping", existing_type=Json, nullable=False)
        batch_op.alter_column("report", existing_type=Json, nullable=False)
        batch_op.alter_column("upload", existing_type=sa.String(length=64), nullable=False)
        batch_op.alter_column("stop_requested", existing_type=sa.Boolean(), nullable=False)
        batch_op.drop_constraint(op.f("ck_imports_state"), type_="check")
        batch_op.create_check_constraint(op.f("ck_imports_state"), sa.text(STATES))
    op.create_table(
        "column_maps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("columns_hash", sa.String(length=64), nullable=False),
        sa.Column("roles", Json, nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_column_maps_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_column_maps")),
        sa.UniqueConstraint("project_id", "columns_hash", name=op.f("uq_column_maps_project_id_columns_hash")),
    )
    op.add_column("users", sa.Column("is_imported", sa.Boolean(), nullable=True))
    op.execute(sa.text("UPDATE users SET is_imported = :no").bindparams(no=False))
    with op.batch_alter_table("users") as batch_op:
        batch_op.alter_column("is_imported", existing_type=sa.Boolean(), nullable=False)
        batch_op.create_check_constraint(op.f("ck_users_is_imported"), sa.text(RATERS))

    op.add_column("responses", sa.Column("turns", Json, nullable=True))
    op.create_table(
        "extracts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("form", sa.String(length=24), nullable=False),
        sa.Column("split", sa.String(length=24), nullable=True),
        sa.Column("container", sa.String(length=24), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("left_out", Json, nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("form IN ('own', 'trl', 'openai')", name=op.f("ck_extracts_form")),
        sa.CheckConstraint("split IN ('train', 'eval')", name=op.f("ck_extracts_split")),
        sa.CheckConstraint("container IN ('jsonl', 'jsonl.gz', 'parquet')", name=op.f("ck_extracts_container")),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name=op.f("ck_extracts_state")),
        sa.CheckConstraint("(form = 'own') = (snapshot_id IS NULL)", name=op.f("ck_extracts_snapshot")),
        sa.CheckConstraint("(form = 'own') = (split IS NULL)", name=op.f("ck_extracts_of_split")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_extracts_project_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_extracts_snapshot_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_extracts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_extracts")),
    )
    op.create_index(op.f("ix_extracts_project_id"), "extracts", ["project_id"], unique=False)


def downgrade() -> None:
    op.drop_table("extracts")
    op.drop_column("responses", "turns")
    with op.batch_alter_table("users") as batch_op:
        batch_op.drop_constraint(op.f("ck_users_is_imported"), type_="check")
        batch_op.drop_column("is_imported")
    op.drop_table("column_maps")
    op.execute("DELETE FROM imports WHERE state = 'draft'")
    with op.batch_alter_table("imports") as batch_op:
        batch_op.drop_constraint(op.f("ck_imports_state"), type_="check")
        batch_op.create_check_constraint(op.f("ck_imports_state"), sa.text(EARLIER_STATES))
        for name in (*COUNTS, "mapping", "report", "upload", "stop_requested"):
            batch_op.drop_column(name)
