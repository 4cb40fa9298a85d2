"""Things that can be computed again: where they are kept, and which code made them."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """Where things that can be computed again are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prefloop"


@lru_cache
def code_hash(*rooms: str) -> str:
    """SHA-256 of the engine's code in these rooms (`"model"`) or modules (`"ground/matmul.py"`), their names included.

    A cache whose key holds it is never read by code that computes otherwise. Raises FileNotFoundError for a room or
    module that isn't there: a cache's key must not lose a part because a file was moved.
    """
    digest = hashlib.sha256()
    for room in rooms:
        place = ENGINE / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
        if not files:
            raise FileNotFoundError(f"The engine has no code at {place}: name its room or module as it is called now.")
        for file in files:
            code = file.read_bytes()
            digest.update(f"{file.relative_to(ENGINE).as_posix()} {len(code)}\n".encode() + code)
    return digest.hexdigest()
