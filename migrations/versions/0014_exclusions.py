"""Exclusions, archived projects and projects that are being deleted, erased people, the import that brought a judgment, and the
indexes that removing rows needs. Of earlier judgments nothing says which import brought them: they stay where one is undone."""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KINDS = {"person": "user_id", "judgment": "judgment_id", "pair": "comparison_id", "import": "import_id"}
IN_FORCE = {
    "person": ["project_id", "user_id"],
    "judgment": ["judgment_id"],
    "pair": ["comparison_id"],
    "import": ["import_id"],
}
NEW_INDEXES = (
    ("ix_comparisons_first_response_id", "comparisons", "first_response_id"),
    ("ix_comparisons_second_response_id", "comparisons", "second_response_id"),
    ("ix_showings_comparison_id", "showings", "comparison_id"),
)


def upgrade() -> None:
    for table, name in (("projects", "archived_at"), ("projects", "deleting_at"), ("users", "erased_at")):
        op.add_column(table, sa.Column(name, UTCDateTime(), nullable=True))
    op.add_column("judgments", sa.Column("import_id", sa.Integer(), nullable=True))
    for name, table, column in NEW_INDEXES:
        op.create_index(name, table, [column], unique=False)
    has_slot = sa.text("slot_id IS NOT NULL")
    op.create_index("ix_judgments_slot_id", "judgments", ["slot_id"], sqlite_where=has_slot, postgresql_where=has_slot)
    op.create_table(
        "exclusions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("judgment_id", sa.Integer(), nullable=True),
        sa.Column("comparison_id", sa.Integer(), nullable=True),
        sa.Column("import_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("lifted_by_id", sa.Integer(), nullable=True),
        sa.Column("lifted_at", UTCDateTime(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('person', 'judgment', 'pair', 'import')", name=op.f("ck_exclusions_kind")),
        *(
            sa.CheckConstraint(f"(kind = '{kind}') = ({column} IS NOT NULL)", name=op.f(f"ck_exclusions_{kind}"))
            for kind, column in KINDS.items()
        ),
        sa.CheckConstraint("lifted_at IS NOT NULL OR lifted_by_id IS NULL", name=op.f("ck_exclusions_lifted")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_exclusions_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_exclusions_user_id")),
        sa.ForeignKeyConstraint(["judgment_id"], ["judgments.id"], name=op.f("fk_exclusions_judgment_id")),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparisons.id"], name=op.f("fk_exclusions_comparison_id")),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name=op.f("fk_exclusions_import_id")),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_exclusions_by_id")),
        sa.ForeignKeyConstraint(["lifted_by_id"], ["users.id"], name=op.f("fk_exclusions_lifted_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exclusions")),
    )
    for kind, columns in IN_FORCE.items():
        where = sa.text(f"{columns[-1]} IS NOT NULL AND lifted_at IS NULL")
        op.create_index(
            f"uq_exclusions_{kind}", "exclusions", columns, unique=True, sqlite_where=where, postgresql_where=where
        )
    op.create_index("ix_exclusions_project_id_id", "exclusions", ["project_id", "id"])
    op.create_index(op.f("ix_exclusions_judgment_id"), "exclusions", ["judgment_id"])
    op.create_index(op.f("ix_exclusions_comparison_id"), "exclusions", ["comparison_id"])
    op.create_table(
        "leftover_files",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_leftover_files")),
    )
    op.create_index(op.f("ix_leftover_files_project_id"), "leftover_files", ["project_id"])


def downgrade() -> None:
    op.drop_table("leftover_files")
    op.drop_table("exclusions")
    op.drop_index("ix_judgments_slot_id", table_name="judgments")
    for name, table, _ in reversed(NEW_INDEXES):
        op.drop_index(name, table_name=table)
    op.drop_column("judgments", "import_id")
    for table, name in (("users", "erased_at"), ("projects", "deleting_at"), ("projects", "archived_at")):
        op.drop_column(table, name)
