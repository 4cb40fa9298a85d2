"""Prompts that are kept for evaluation: known to nobody, asked by evaluations alone, and never trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Engine, select

from app.bulk import among
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Prompt, Split, User
from app.services.accounts import audit
from app.services.loop.generating import prompts

LARGEST_FILE = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Kept:
    """Of prompts that were given: those that are `kept` now, of these `new` ones, and `others`: the project asks or trains on them, or
    on near duplicates, already."""

    kept: int
    new: int
    others: int

    @property
    def sentence(self) -> str:
        told = f"{self.kept:,} prompts are kept for evaluation, {self.new:,} of them new"
        if self.others:
            told += f"; {self.others:,} can't be: the project has them, or near duplicates, among its own"
        return f"{told}."


def read(data: bytes) -> list[object]:
    """The prompts of a file: JSON Lines of texts, lists of messages, or objects with `prompt`; or plain lines. Raises Invalid."""
    if len(data) > LARGEST_FILE:
        raise Invalid("The file is larger than 32 MiB.", "Give fewer prompts at a time.", field="file")
    try:
        lines = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise Invalid("The file isn't text in UTF-8.", "Save it as UTF-8.", field="file") from error
    return [_prompt(line) for line in lines]


def _prompt(line: str) -> object:
    if line.lstrip()[:1] not in ('"', "[", "{"):
        return line
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line
    return value.get("prompt", value) if isinstance(value, dict) else value


def keep(engine: Engine, *, project_id: int, given: Sequence[object], by_id: int, address: str = "") -> Kept:
    """Keeps prompts for evaluation, in short transactions of its own. Raises Invalid with the number of one that can't be used."""
    read_prompts = prompts.read_given(given)
    if not read_prompts:
        raise Invalid("There is no prompt.", "Give one a line.", field="file")
    with read_session(engine) as session:
        newest = session.scalar(select(Prompt.id).order_by(Prompt.id.desc()).limit(1)) or 0
    ids = prompts.store(engine, project_id=project_id, given=read_prompts, split=Split.KEPT)
    with write_session(engine) as session:
        session.info["address"] = address
        kept = set(session.scalars(select(Prompt.id).where(among(session, Prompt.id, ids), Prompt.split == Split.KEPT)))
        told = Kept(len(kept), sum(number > newest for number in kept), len(ids) - len(kept))
        audit.record(
            session,
            by=session.get_one(User, by_id),
            action="prompts.keep",
            target=f"project {project_id}",
            kept=told.kept,
            new=told.new,
        )
        return told
