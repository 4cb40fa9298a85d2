"""A folder that follows an alias: what serves reads FOLDER/ALIAS, a link that is switched in one step to another whole copy.

For vLLM's LoRA resolver FOLDER is its cache directory and the alias the model's name; for llama.cpp and Ollama an export with its
Modelfile stands there instead.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from app.errors import Conflict, Invalid
from app.storage import Storage, StoredFile

COPIES = ".checkpoints"  # beside the links; its name starts with a dot, so no resolver takes it for an adapter
KEPT = 2  # copies beside the one in use: whoever goes back finds the last one there
ADAPTER = "adapter_config.json"
MAKING, LINKING = ".making-", ".link-"


@dataclass(frozen=True)
class Placed:
    """Where the alias leads now; `switched`: it led elsewhere before."""

    link: Path
    copy: Path
    switched: bool


def place(
    folder: Path, *, alias: str, copy: str, files: Sequence[StoredFile], storage: Storage, base_model: str = ""
) -> Placed:
    """Copies the files into a folder of their own, proves their hashes, and then switches the link.

    copy: the name of that folder, the same for the same content. base_model: the name under which the base is served, which an
    adapter's configuration must name for vLLM to load it. Slow: call it outside of any transaction. One at a time for an alias in
    a folder: a second one waits, and finds the copy.
    """
    if base_model and not any(file.name == ADAPTER for file in files):
        raise Invalid("Only an adapter names its base model.", "Leave the name of the base out.", field="base")
    copies = folder / COPIES / alias
    copies.mkdir(parents=True, exist_ok=True)
    whole, link = copies / copy, folder / alias
    with _alone(copies):
        if not whole.is_dir():
            with tempfile.TemporaryDirectory(dir=copies, prefix=MAKING) as made:
                _fill(Path(made) / copy, files, storage, base_model)
                (Path(made) / copy).rename(whole)
        switched = _switch(link, whole, copies)
        _forget(copies, whole)
    return Placed(link, whole, switched)


@contextmanager
def _alone(copies: Path) -> Iterator[None]:
    """Nobody else places copies here until the block ends. What one that was killed had begun goes: nobody can be at it."""
    with (copies / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in copies.iterdir():
            if path.name.startswith((MAKING, LINKING)):
                shutil.rmtree(path)
        yield


def remove(folder: Path, *, alias: str) -> bool:
    """The alias means nothing any more: its link goes, its copies stay. Whether there was one."""
    link = folder / alias
    if not link.is_symlink():
        return False
    link.unlink()
    return True


def _fill(into: Path, files: Sequence[StoredFile], storage: Storage, base_model: str) -> None:
    for file in files:
        target = into / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = sha256()
        with storage.open(file.key) as source, target.open("wb") as sink:
            while chunk := source.read(1024 * 1024):
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        if digest.hexdigest() != file.sha256:
            raise Conflict(f"{file.name} isn't what was stored.", "Run: prefloop doctor")
    if base_model:
        path = into / ADAPTER
        facts = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(facts | {"base_model_name_or_path": base_model}, indent=2), encoding="utf-8")


def _switch(link: Path, whole: Path, copies: Path) -> bool:
    """A new link, made among the copies, takes the old one's place by a rename: a reader finds one or the other, never none."""
    target = os.path.relpath(whole, link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return False
    if link.exists() and not link.is_symlink():
        raise Conflict(f"{link} is there and isn't a link.", "Move it away, or follow the alias into another folder.")
    with tempfile.TemporaryDirectory(dir=copies, prefix=LINKING) as made:
        fresh = Path(made) / "link"
        fresh.symlink_to(target)
        os.replace(fresh, link)
    return True


def _forget(copies: Path, used: Path) -> None:
    """Only the newest copies are kept; a program that reads an older one has its files open."""
    os.utime(used)
    others = [path for path in copies.iterdir() if path.is_dir() and path != used and not path.name.startswith(".")]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path)
