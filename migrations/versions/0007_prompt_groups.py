"""Groups of near-duplicate prompts, and figures that are computed in the background.

Prompts that are there are filed and grouped in the order in which they came, and each keeps its split: where a group stands on
both sides, training leaves its pairs out. Takes a minute or two for a million prompts.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from app.models.base import Json, UTCDateTime
from app.services.collecting.duplicates import near

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BATCH = 1000
PROMPTS = sa.table(
    "prompts",
    sa.column("id"),
    sa.column("project_id"),
    sa.column("content_hash"),
    sa.column("messages", Json),
    sa.column("split"),
    sa.column("group_id"),
)
GROUPS = sa.table("prompt_groups", sa.column("id"), sa.column("project_id"), sa.column("split"))
KEYS = sa.table(
    "prompt_keys", sa.column("project_id"), sa.column("key"), sa.column("prompt_id"), sa.column("fingerprint")
)
GROUPED = sa.text("group_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "prompt_groups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(length=24), nullable=False),
        sa.CheckConstraint("split IN ('train', 'eval')", name=op.f("ck_prompt_groups_split")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_prompt_groups_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt_groups")),
    )
    op.create_index(op.f("ix_prompt_groups_project_id"), "prompt_groups", ["project_id"])
    op.create_table(
        "prompt_keys",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("prompt_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", "prompt_id", name=op.f("pk_prompt_keys")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "kept_figures",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rule_key", sa.String(length=64), nullable=False),
        sa.Column("rule", Json, nullable=False),
        sa.Column("counts", Json, nullable=True),
        sa.Column("statistics", Json, nullable=True),
        sa.Column("as_of", UTCDateTime(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("began_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_kept_figures_project_id")),
        sa.PrimaryKeyConstraint("project_id", "rule_key", name=op.f("pk_kept_figures")),
    )
    with op.batch_alter_table("prompts") as batch_op:
        batch_op.add_column(sa.Column("group_id", sa.Integer(), nullable=True))
        batch_op.create_foreign_key(op.f("fk_prompts_group_id"), "prompt_groups", ["group_id"], ["id"])
    op.create_index("ix_prompts_group_id", "prompts", ["group_id"], sqlite_where=GROUPED, postgresql_where=GROUPED)
    op.add_column("projects", sa.Column("pairs_version", sa.Integer(), nullable=True))
    op.execute("UPDATE projects SET pairs_version = 0")
    with op.batch_alter_table("projects") as batch_op:
        batch_op.alter_column("pairs_version", existing_type=sa.Integer(), nullable=False)
    op.create_index("ix_comparisons_project_id_id", "comparisons", ["project_id", "id"])
    op.create_index("ix_comparisons_import_id_id", "comparisons", ["import_id", "id"])
    op.drop_index("ix_comparisons_import_id", "comparisons")
    op.drop_index("ix_judgments_user", "judgments")
    op.create_index("ix_judgments_history", "judgments", ["project_id", "user_id", "superseded", "submitted_at", "id"])
    connection = op.get_bind()
    for project_id in connection.scalars(sa.text("SELECT id FROM projects ORDER BY id")).all():
        _group(connection, project_id)


def downgrade() -> None:
    op.drop_index("ix_judgments_history", "judgments")
    op.create_index("ix_judgments_user", "judgments", ["project_id", "user_id", "submitted_at"])
    op.create_index("ix_comparisons_import_id", "comparisons", ["import_id"])
    op.drop_index("ix_comparisons_import_id_id", "comparisons")
    op.drop_index("ix_comparisons_project_id_id", "comparisons")
    with op.batch_alter_table("projects") as batch_op:
        batch_op.drop_column("pairs_version")
    op.drop_index("ix_prompts_group_id", "prompts")
    with op.batch_alter_table("prompts") as batch_op:
        batch_op.drop_constraint(op.f("fk_prompts_group_id"), type_="foreignkey")
        batch_op.drop_column("group_id")
    op.drop_table("kept_figures")
    op.drop_table("prompt_keys")
    op.drop_table("prompt_groups")


def _group(connection: sa.Connection, project_id: int) -> None:
    """Files and groups a project's prompts. A group is named by its oldest prompt until all are known."""
    group_of: dict[int, int] = {}  # of prompts that aren't alone
    last = 0
    while rows := connection.execute(
        sa.select(PROMPTS.c.id, PROMPTS.c.messages)
        .where(PROMPTS.c.project_id == project_id, PROMPTS.c.id > last)
        .order_by(PROMPTS.c.id)
        .limit(BATCH)
    ).all():
        last = rows[-1].id
        for number, seen in _find(connection, project_id, rows).items():
            near = [int(key) for key in seen.near]
            oldest = min((_oldest(group_of, key) for key in near), default=number)
            for key in (*near, number) if near else ():
                group_of[_oldest(group_of, key)] = oldest
                group_of[key] = oldest
    members: dict[int, list[int]] = {}
    for number in sorted(group_of):
        members.setdefault(_oldest(group_of, number), []).append(number)
    for oldest, numbers in members.items():
        _store(connection, project_id, oldest, numbers)


def _oldest(group_of: dict[int, int], number: int) -> int:
    while (older := group_of.get(number, number)) != number:
        number = older
    return number


def _find(connection: sa.Connection, project_id: int, rows: Sequence[sa.Row[Any]]) -> dict[int, near.Found]:
    wordings = dict(zip((str(row.id) for row in rows), near.wordings(row.messages for row in rows), strict=True))
    keys = list({key for wording in wordings.values() for key in (wording.whole, *wording.sketch)})
    filed: dict[int, list[tuple[near.Key, int]]] = {}
    for start in range(0, len(keys), BATCH):
        for key, number, fingerprint in connection.execute(
            sa.select(KEYS.c.key, KEYS.c.prompt_id, KEYS.c.fingerprint)
            .where(KEYS.c.project_id == project_id, KEYS.c.key.in_(keys[start : start + BATCH]))
            .order_by(KEYS.c.prompt_id)
        ):
            filed.setdefault(key, []).append((number, fingerprint))

    def stored(numbers: Sequence[near.Key]) -> dict[near.Key, near.Wording]:
        texts: list[sa.Row[Any]] = []
        for start in range(0, len(numbers), BATCH):
            some = PROMPTS.c.id.in_(numbers[start : start + BATCH])
            texts += connection.execute(sa.select(PROMPTS.c.id, PROMPTS.c.messages).where(some)).all()
        return dict(zip((row.id for row in texts), near.wordings(row.messages for row in texts), strict=True))

    seen = near.find(wordings, filed, stored)
    new = [
        {"project_id": project_id, "key": key, "prompt_id": int(number), "fingerprint": one.fingerprint}
        for number, one in seen.items()
        for key in one.filed
    ]
    if new:
        connection.execute(sa.insert(KEYS), new)
    return {int(number): one for number, one in seen.items()}


def _store(connection: sa.Connection, project_id: int, oldest: int, numbers: list[int]) -> None:
    split = connection.scalar(sa.select(PROMPTS.c.split).where(PROMPTS.c.id == oldest))
    group_id = 1 + (connection.scalar(sa.select(sa.func.max(GROUPS.c.id))) or 0)
    if connection.dialect.name == "postgresql":
        group_id = connection.scalar(sa.text("SELECT nextval('prompt_groups_id_seq')"))
    connection.execute(sa.insert(GROUPS).values(id=group_id, project_id=project_id, split=split))
    for start in range(0, len(numbers), BATCH):
        some = PROMPTS.c.id.in_(numbers[start : start + BATCH])
        connection.execute(sa.update(PROMPTS).where(some).values(group_id=group_id))
