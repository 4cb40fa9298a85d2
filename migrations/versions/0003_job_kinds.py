"""Jobs have kinds: what only a training run knows moves into a table of its own; workers say what they can do."""

import sqlalchemy as sa
from alembic import op

from app.models.base import Json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LEASE = (
    "(state = 'running' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
    " OR (state <> 'running' AND lease_token IS NULL AND lease_until IS NULL)"
)
FINISHED = (
    "(state IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NOT NULL)"
    " OR (state IN ('queued', 'running') AND finished_at IS NULL)"
)
EVENTS = "type IN ('state', 'step', 'eval', 'sample', 'log', 'checkpoint', 'done', 'error')"
OF_RUNS = ("snapshot_id", "base_model", "config", "note", "metrics")


def upgrade() -> None:
    op.create_table(
        "training_runs",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=False),
        sa.Column("base_model", sa.String(length=255), nullable=False),
        sa.Column("config", Json, nullable=False),
        sa.Column("note", sa.String(length=255), nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_training_runs_job_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_training_runs_snapshot_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_training_runs")),
    )
    op.create_index(op.f("ix_training_runs_snapshot_id"), "training_runs", ["snapshot_id"], unique=False)
    op.execute(
        "INSERT INTO training_runs (job_id, snapshot_id, base_model, config, note, metrics)"
        " SELECT id, snapshot_id, base_model, config, note, metrics FROM jobs"
    )
    _take_leases()
    # The rules below were kept by the code alone until now.
    op.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running' AND lease_until IS NULL")
    op.execute("UPDATE jobs SET lease_token = NULL, lease_until = NULL WHERE state <> 'running'")
    op.execute("UPDATE jobs SET finished_at = NULL WHERE state IN ('queued', 'running')")
    op.execute(
        "UPDATE jobs SET finished_at = created_at"
        " WHERE state IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NULL"
    )
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("kind", sa.String(length=24), nullable=False, server_default="training"))
        batch.alter_column("stage", new_column_name="phase")
        batch.drop_index(op.f("ix_jobs_snapshot_id"))
        batch.drop_constraint(op.f("fk_jobs_snapshot_id"), type_="foreignkey")
        for name in OF_RUNS:
            batch.drop_column(name)
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("kind", server_default=None)
        batch.create_check_constraint(op.f("ck_jobs_kind"), "kind IN ('training', 'export')")
        batch.create_check_constraint(op.f("ck_jobs_lease"), LEASE)
        batch.create_check_constraint(op.f("ck_jobs_finished"), FINISHED)
    op.execute(f"UPDATE job_events SET type = 'log' WHERE NOT ({EVENTS})")  # noqa: S608
    with op.batch_alter_table("job_events", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.create_check_constraint(op.f("ck_job_events_type"), EVENTS)
    with op.batch_alter_table("checkpoints") as batch:
        batch.drop_index(op.f("ix_checkpoints_project_id"))
        batch.drop_constraint(op.f("fk_checkpoints_project_id"), type_="foreignkey")
        batch.drop_column("project_id")
        batch.drop_constraint(op.f("fk_checkpoints_job_id"), type_="foreignkey")
        batch.create_foreign_key(op.f("fk_checkpoints_job_id"), "training_runs", ["job_id"], ["job_id"])
    with op.batch_alter_table("workers") as batch:
        batch.add_column(sa.Column("version", sa.String(length=40), nullable=False, server_default=""))
        batch.add_column(sa.Column("kinds", Json, nullable=False, server_default="[]"))
        batch.drop_constraint(op.f("fk_workers_job_id"), type_="foreignkey")
        batch.drop_column("job_id")
    with op.batch_alter_table("workers") as batch:
        batch.alter_column("version", server_default=None)
        batch.alter_column("kinds", server_default=None)


def downgrade() -> None:
    _take_leases()
    # The earlier version has no place for jobs of other kinds.
    op.execute("DELETE FROM job_events WHERE job_id NOT IN (SELECT job_id FROM training_runs)")
    op.execute("DELETE FROM jobs WHERE id NOT IN (SELECT job_id FROM training_runs)")
    with op.batch_alter_table("job_events", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint(op.f("ck_job_events_type"), type_="check")
    with op.batch_alter_table("workers") as batch:
        batch.add_column(sa.Column("job_id", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_workers_job_id"), "jobs", ["job_id"], ["id"])
        batch.drop_column("version")
        batch.drop_column("kinds")
    with op.batch_alter_table("checkpoints") as batch:
        batch.drop_constraint(op.f("fk_checkpoints_job_id"), type_="foreignkey")
        batch.create_foreign_key(op.f("fk_checkpoints_job_id"), "jobs", ["job_id"], ["id"])
        batch.add_column(sa.Column("project_id", sa.Integer(), nullable=True))
    op.execute("UPDATE checkpoints SET project_id = (SELECT project_id FROM jobs WHERE jobs.id = checkpoints.job_id)")
    with op.batch_alter_table("checkpoints") as batch:
        batch.alter_column("project_id", existing_type=sa.Integer(), nullable=False)
        batch.create_foreign_key(op.f("fk_checkpoints_project_id"), "projects", ["project_id"], ["id"])
        batch.create_index(op.f("ix_checkpoints_project_id"), ["project_id"], unique=False)
    with op.batch_alter_table("jobs") as batch:
        for name in ("kind", "lease", "finished"):
            batch.drop_constraint(op.f(f"ck_jobs_{name}"), type_="check")
        batch.alter_column("phase", new_column_name="stage")
        batch.drop_column("kind")
        batch.add_column(sa.Column("snapshot_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("base_model", sa.String(length=255), nullable=True))
        batch.add_column(sa.Column("config", Json, nullable=True))
        batch.add_column(sa.Column("note", sa.String(length=255), nullable=True))
        batch.add_column(sa.Column("metrics", Json, nullable=True))
    op.execute(
        "UPDATE jobs SET snapshot_id = run.snapshot_id, base_model = run.base_model, config = run.config,"
        " note = run.note, metrics = run.metrics FROM training_runs AS run WHERE run.job_id = jobs.id"
    )
    with op.batch_alter_table("jobs") as batch:
        for name in OF_RUNS:
            batch.alter_column(name, nullable=False)
        batch.create_foreign_key(op.f("fk_jobs_snapshot_id"), "snapshots", ["snapshot_id"], ["id"])
        batch.create_index(op.f("ix_jobs_snapshot_id"), ["snapshot_id"], unique=False)
    op.drop_index(op.f("ix_training_runs_snapshot_id"), "training_runs")
    op.drop_table("training_runs")


def _take_leases() -> None:
    """Take running jobs from workers of the other version.

    Such a worker can't write to these tables any more, but it could still end its job as failed. With its token gone it
    notices within a second that it lost the job, and stops; the sweeper queues the job when the lease has run out.
    """
    op.execute("UPDATE jobs SET lease_token = 'taken by a migration' WHERE state = 'running'")
