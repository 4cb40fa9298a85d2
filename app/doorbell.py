"""The doorbell: tells the workers that a job waits. The database is the truth; a lost ring costs only time.

Celery over files in the data folder, or over Redis. A message carries nothing: whoever hears it claims what waits.
"""

import os
import time
import uuid
from functools import lru_cache
from queue import Empty
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps, loads
from redis.exceptions import RedisError

from app.config import Settings

log = structlog.get_logger()

TASK = "prefloop.train"
QUEUE = "prefloop-train"
SCHEME = "prefloop-files"
TIMEOUT_SECONDS = 1.5


class Channel(filesystem.Channel):
    """Kombu's filesystem channel for our one queue, without its races.

    A message appears whole, so that no reader catches one that is half written; and the one route is known here
    instead of being read from a file that another process may just be writing.
    """

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        folder, name = self.data_folder_out, f"{time.time_ns()}_{uuid.uuid4()}.{queue}.msg"
        hidden = os.path.join(folder, f".{name}.part")
        with open(hidden, "w", encoding="utf-8") as file:
            file.write(dumps(payload))
        os.replace(hidden, os.path.join(folder, name))

    def _get(self, queue: str) -> dict[str, Any]:  # type: ignore[override]
        """The oldest message. A file that isn't one, such as one that a full disk left empty, is removed and passed by."""
        folder = self.data_folder_in
        for name in sorted(os.listdir(folder)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = os.path.join(folder, f".{name}.taken")
            try:
                os.replace(os.path.join(folder, name), taken)  # of several readers one gets it
                with open(taken, "rb") as file:
                    content = file.read()
                os.remove(taken)
            except OSError:
                continue
            if message := _message_of(content):
                return message
            log.warning("broker.unreadable", file=name, bytes=len(content))
        raise Empty

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:  # type: ignore[override]
        return [filesystem.exchange_queue_t(QUEUE, "", QUEUE)]

    def _queue_bind(self, *args: Any) -> None:
        pass


def _message_of(content: bytes) -> dict[str, Any] | None:
    try:
        message = loads(content.decode())
        message["properties"]["delivery_info"], message["properties"]["delivery_tag"], message["headers"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return message if isinstance(message.get("body"), str) else None


class Transport(filesystem.Transport):
    """Celery's transport on a shared folder."""

    Channel = Channel


TRANSPORT_ALIASES[SCHEME] = "app.doorbell:Transport"


@lru_cache
def celery_app(broker: str, broker_dir: str) -> Celery:
    """The Celery app for a broker; the worker registers its task on the same one."""
    app = Celery("prefloop", broker=f"{SCHEME}://localhost//" if broker.startswith("filesystem") else broker)
    app.conf.update(
        task_default_queue=QUEUE,
        # Acknowledged when heard, not hours later when the job is done: by then the broker may have been restarted, and a
        # consumer with prefetch 1 that can't acknowledge hears nothing more. A ring that is lost is rung again.
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_options(broker, broker_dir),
    )
    return app


def _options(broker: str, broker_dir: str) -> dict[str, Any]:
    if not broker.startswith("filesystem"):
        # A web page must not wait for a broker that is away.
        return {
            "max_retries": 0,
            "connect_retries_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "socket_timeout": 30,
            "health_check_interval": 10,
        }
    messages = os.path.join(broker_dir, "messages")
    os.makedirs(messages, exist_ok=True)
    return {"data_folder_in": messages, "data_folder_out": messages, "polling_interval": 0.2}


def make_celery(settings: Settings) -> Celery:
    return celery_app(settings.broker, str(settings.broker_dir))


def ring(settings: Settings) -> None:
    """Ring the workers' doorbell. Raises OSError if the broker is away."""
    try:
        make_celery(settings).send_task(TASK, retry=False, ignore_result=True)
    except (OperationalError, RedisError) as error:
        raise OSError(f"The message broker {describe(settings)} is away: {error}") from error


def describe(settings: Settings) -> str:
    """The broker without its password."""
    if settings.broker.startswith("filesystem"):
        return f"in {settings.broker_dir}"
    return f"at {settings.broker.rpartition('@')[2].removeprefix('redis://').removeprefix('rediss://')}"


def check(settings: Settings) -> None:
    """Raises OSError with the reason if the broker is away."""
    try:
        with make_celery(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            channel: Any = connection.default_channel
            channel.queue_declare(QUEUE)
    except (OperationalError, RedisError) as error:
        raise OSError(f"The message broker {describe(settings)} is away: {error}") from error
