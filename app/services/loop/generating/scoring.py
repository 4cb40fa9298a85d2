"""What a generation's margin arm needs: a checkpoint's scores of the answers, made by the job's program and read from its files."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.models import Arm, Finish, GenerationPlan
from app.services.collecting.messages import Message
from app.services.loop.generating import answers, prompts
from app.services.loop.generating.answers import Place
from app.services.loop.generating.arms import Arms

FOLDER = "scoring"
INDEX, SCORES = "index.json", "scores.jsonl"
PROMPTS_AT_ONCE = 500


class Scores:
    """The prompts of the margin arm, with the answers to them that were stored before. Nothing is `wanted` where there is no such arm."""

    def __init__(self, session: Session, plan: GenerationPlan, messages: dict[int, list[Message]]) -> None:
        chosen = Arms.stored_as(plan.arms)
        self.checkpoint_id = chosen.checkpoint_id or 0
        self._prompts: dict[int, list[Message]] = {}
        self._known: list[dict[str, Any]] = []
        if not chosen.wants_margins:
            return
        seed, splits = int(plan.sampling["seed"]), prompts.splits_of(session, ids=list(messages))
        self._prompts = {
            number: told
            for number, told in messages.items()
            if number in splits and chosen.of_prompt(number, splits[number], seed=seed) is Arm.MARGIN
        }
        ids = list(self._prompts)
        for first in range(0, len(ids), PROMPTS_AT_ONCE):
            page = answers.of_prompts(session, job_id=plan.job_id, prompts=ids[first : first + PROMPTS_AT_ONCE])
            self._known += [
                {"prompt_id": row.prompt_id, "source": row.source, "sample": row.sample, "text": row.text}
                for rows in page.values()
                for row in rows
                if row.finish is not Finish.FAILED
            ]

    @property
    def wanted(self) -> bool:
        return bool(self._prompts)

    def told(self, folder: Path, model: list[str]) -> dict[str, Any]:
        """What the program is told, with its files written. model: the engine's arguments for the checkpoint."""
        own = folder / FOLDER
        own.mkdir(exist_ok=True)
        prompts_file, known = own / "prompts.jsonl", own / "known.jsonl"
        told = [{"id": number, "prompt": messages} for number, messages in self._prompts.items()]
        for path, rows in ((prompts_file, told), (known, self._known)):
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return {
            "title": f"Margins of checkpoint {self.checkpoint_id}",
            "model": [*model, "--reference-cache", str(own / "reference")],
            "prompts": str(prompts_file),
            "known": str(known),
            "data": str(own / "pairs.jsonl"),
            "index": str(own / INDEX),
            "scores": str(own / SCORES),
        }

    def read(self, folder: Path) -> dict[Place, float]:
        """What the checkpoint thinks of each answer: log π − log π_ref in nats. What the engine couldn't score has no number."""
        own, rewards = folder / FOLDER, dict[Place, float]()
        with suppress(FileNotFoundError):
            index = json.loads((own / INDEX).read_text())
            for text in (own / SCORES).read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                for side, name in enumerate(("reward_chosen", "reward_rejected")):
                    if math.isfinite(line[name]):
                        rewards |= {(one[0], one[1], one[2]): line[name] for one in index[line["line"] - 1][side]}
        return rewards
