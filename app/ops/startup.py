"""What has to be right before a process of ours begins its work: said in words, not found out at somebody's request."""

import os

from app.config import Settings
from app.errors import PrefloopError
from app.storage import get_storage


class CannotStart(PrefloopError):
    status = 503
    code = "cannot_start"


def check(settings: Settings) -> None:
    """Raises CannotStart for a folder that can't be written, a key that can't be read, a store of an unknown kind."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        secret = settings.secret
    except OSError as error:
        raise CannotStart(
            f"Can't use the data folder {folder} ({error.strerror}).",
            "Free space or fix its owner, or choose another with PREFLOOP_DATA_DIR.",
        ) from error
    if not writable:
        raise CannotStart(
            f"Can't write in the data folder {folder}.", "Fix its owner, or choose another with PREFLOOP_DATA_DIR."
        )
    if len(secret) < 32:
        raise CannotStart(
            f"The key in {folder / 'secret_key'} is shorter than 32 characters.",
            "Put the file back from a backup, or remove it: then everybody signs in anew and tokens have to be made again.",
        )
    try:
        get_storage(settings)
    except (ValueError, ImportError) as error:
        raise CannotStart(
            f"PREFLOOP_STORAGE_URL can't be used: {error}.", "Use an fsspec URL such as s3://bucket/prefix."
        ) from error
