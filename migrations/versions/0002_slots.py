"""slots: each state whole

A slot's columns now follow from its state, which CHECKs hold: open has neither holder nor lease, leased has both, done has a
holder and no lease. What 0001 kept otherwise is repaired:

- a slot that is done or open forgets the lease by which it was held (0001 left its token there, and for imported judgments
  sometimes a token that wasn't the judgment's); judgments and showings keep their tokens, so nothing that was said is lost;
- a slot that is leased without a holder, a token or an end, which no version of the app writes, is open again;
- a judgment that is late or a skip fills no slot, so it names none.

`priority` takes the place of `rank` (its negative), from the comparison itself: 0001 gave the demo's extra slots none.
`leased_at` goes, for the showing knows when it was shown; so does the import's `lines`, the sum of its other counts.
"""

import sqlalchemy as sa
from alembic import op

from app.models.base import UTCDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SLOT_CHECKS = {
    "open": "state <> 'open' OR (holder_id IS NULL AND lease_token IS NULL AND leased_until IS NULL)",
    "leased": "state <> 'leased' OR (holder_id IS NOT NULL AND lease_token IS NOT NULL AND leased_until IS NOT NULL)",
    "done": "state <> 'done' OR (holder_id IS NOT NULL AND lease_token IS NULL AND leased_until IS NULL)",
}
HELD = {"held": "state = 'open' OR holder_id IS NOT NULL"}
JUDGMENT_CHECKS = {"late": "NOT late OR slot_id IS NULL", "skip": "choice <> 'skip' OR slot_id IS NULL"}


def upgrade() -> None:
    op.execute("UPDATE judgments SET slot_id = NULL WHERE slot_id IS NOT NULL AND (late OR choice = 'skip')")
    with op.batch_alter_table("judgments") as batch_op:
        _create_checks(batch_op, "judgments", JUDGMENT_CHECKS)

    op.execute(
        "UPDATE slots SET state = 'open', holder_id = NULL "
        "WHERE state = 'leased' AND (holder_id IS NULL OR lease_token IS NULL OR leased_until IS NULL)"
    )
    op.execute("UPDATE slots SET holder_id = NULL WHERE state = 'open' AND holder_id IS NOT NULL")
    op.execute("UPDATE slots SET lease_token = NULL, leased_until = NULL WHERE state <> 'leased'")
    op.add_column("slots", sa.Column("priority", sa.Integer(), nullable=True))
    op.execute("UPDATE slots SET priority = (SELECT c.priority FROM comparisons c WHERE c.id = slots.comparison_id)")
    with op.batch_alter_table("slots") as batch_op:
        batch_op.drop_index("ix_slots_next")
        _drop_checks(batch_op, "slots", HELD)
        batch_op.drop_column("rank")
        batch_op.drop_column("leased_at")
        batch_op.alter_column("priority", existing_type=sa.Integer(), nullable=False)
        _create_checks(batch_op, "slots", SLOT_CHECKS)
    # After the copy: SQLite would tell Alembic nothing of the DESC.
    op.create_index(
        "ix_slots_next", "slots", ["project_id", "state", sa.text("priority DESC"), "ordinal", "comparison_id"]
    )

    op.drop_column("imports", "lines")


def downgrade() -> None:
    op.add_column("imports", sa.Column("lines", sa.Integer(), nullable=True))
    op.execute("UPDATE imports SET lines = added + duplicates + rejected")
    with op.batch_alter_table("imports") as batch_op:
        batch_op.alter_column("lines", existing_type=sa.Integer(), nullable=False)

    op.drop_index("ix_slots_next", "slots")
    op.add_column("slots", sa.Column("rank", sa.Integer(), nullable=True))
    op.add_column("slots", sa.Column("leased_at", UTCDateTime(), nullable=True))
    op.execute("UPDATE slots SET rank = -priority")
    op.execute("UPDATE slots SET leased_at = (SELECT s.shown_at FROM showings s WHERE s.token = slots.lease_token)")
    with op.batch_alter_table("slots") as batch_op:
        _drop_checks(batch_op, "slots", SLOT_CHECKS)
        batch_op.drop_column("priority")
        batch_op.alter_column("rank", existing_type=sa.Integer(), nullable=False)
        _create_checks(batch_op, "slots", HELD)
    op.create_index("ix_slots_next", "slots", ["project_id", "state", "rank", "ordinal", "comparison_id"])

    with op.batch_alter_table("judgments") as batch_op:
        _drop_checks(batch_op, "judgments", JUDGMENT_CHECKS)


def _create_checks(batch_op, table, checks) -> None:
    for name, rule in checks.items():
        batch_op.create_check_constraint(op.f(f"ck_{table}_{name}"), sa.text(rule))


def _drop_checks(batch_op, table, checks) -> None:
    for name in checks:
        batch_op.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
