"""prefloop workers"""

from app.commands.context import show
from app.commands.options import AsJson
from app.config import get_settings
from app.db import read_session
from app.services.jobs import workers as worker_service


def list_workers(as_json: AsJson = False) -> None:
    """Show the workers: which live, what each can do, on what, and its job."""
    with read_session() as session:
        show(
            (
                {
                    "name": one.worker.name,
                    "alive": one.alive,
                    "version": one.worker.version,
                    "kinds": ", ".join(one.worker.kinds),
                    "device": one.worker.device,
                    "job": one.job.id if one.job else None,
                    "heard": one.worker.heartbeat_at,
                }
                for one in worker_service.listing(session, silent_after=get_settings().worker_lease_seconds)
            ),
            as_json=as_json,
            empty="No worker yet. Start one: prefloop worker",
        )
