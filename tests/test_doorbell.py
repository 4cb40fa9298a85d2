"""The doorbell: whole messages, and clear words about a broker that is away."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

import pytest

from app import doorbell
from app.config import Settings
from tests.services_for_tests import free_port


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None)


def away(settings: Settings) -> Settings:
    return settings.model_copy(update={"broker_url": f"redis://:pass-word@127.0.0.1:{free_port()}/0"})


def test_ringing_leaves_whole_messages_that_carry_nothing(embedded: Settings) -> None:
    with ThreadPoolExecutor(8) as ringers:
        list(ringers.map(lambda _: doorbell.ring(embedded), range(20)))
    messages = list((embedded.broker_dir / "messages").iterdir())
    assert len(messages) == 20
    assert all(json.loads(message.read_text())["headers"]["argsrepr"] == "()" for message in messages)
    doorbell.check(embedded)


def test_redis_is_reached(embedded: Settings, redis_url: str) -> None:
    settings = embedded.model_copy(update={"broker_url": redis_url})
    doorbell.check(settings)
    doorbell.ring(settings)


def test_broker_that_is_away_is_named_without_its_password(embedded: Settings) -> None:
    for ask in (doorbell.check, doorbell.ring):
        with pytest.raises(OSError, match=r"127\.0\.0\.1") as refused:
            ask(away(embedded))
        assert "pass-word" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"body": "", "headers": {}, "properties": {}}'],
)
def test_a_file_that_is_no_message_is_passed_by_and_removed(embedded: Settings, content: bytes) -> None:
    """Case 165."""
    doorbell.ring(embedded)
    folder = embedded.broker_dir / "messages"
    for number in range(7):
        (folder / f"0{number}_z.{doorbell.QUEUE}.msg").write_bytes(content)
    (folder / f"0_other.{doorbell.QUEUE}.msg.tmp").write_bytes(content)
    with doorbell.make_celery(embedded).connection_for_read() as connection:
        channel = connection.default_channel
        assert channel._get(doorbell.QUEUE)["headers"]["task"] == doorbell.TASK
        with pytest.raises(Empty):
            channel._get(doorbell.QUEUE)
    assert [path.name for path in folder.iterdir()] == [f"0_other.{doorbell.QUEUE}.msg.tmp"]
