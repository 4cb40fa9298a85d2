"""An evaluation with its pairs and judgments as rows, without generating or asking anything."""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from app.config import Settings
from app.db import write_session
from app.models import (
    Checkpoint,
    Choice,
    Comparison,
    Evaluation,
    EvaluationPair,
    EvaluationState,
    Judgment,
    Project,
    Prompt,
    Response,
    Side,
    Split,
    User,
)
from tests.factory import Factory
from tests.services.training.trained import trained

BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Evaluated:
    """A project with a checkpoint, and evaluations of it against its base, filled as a test wants them."""

    def __init__(self, engine: Engine, settings: Settings, factory: Factory, slug: str = "support-tone") -> None:
        self.engine, self.settings, self.factory = engine, settings, factory
        self.engineer = factory.engineer()
        self.project: Project = factory.judged(8, eval_percent=0, slug=slug)
        _, self.checkpoint = trained(engine, settings, self.project, self.engineer)
        self.people: list[User] = []
        self.numbers = 0

    def another(self) -> Checkpoint:
        self.factory.comparison(self.project)
        assert self.factory.judge(self.project, self.engineer)
        _, checkpoint = trained(self.engine, self.settings, self.project, self.engineer)
        return checkpoint

    def person(self, number: int) -> User:
        while len(self.people) <= number:
            self.people.append(self.factory.user(username=f"judge-{len(self.people) + 1}"))
        return self.people[number]

    def evaluation(
        self,
        outcomes: str,
        *,
        state: EvaluationState = EvaluationState.ASKING,
        open_pairs: int = 0,
        people: int = 3,
        checkpoint: Checkpoint | None = None,
        opponent: Checkpoint | None = None,
        longer: int = 0,
        tells: dict[int, list[str]] | None = None,
        texts: tuple[str, str] | None = None,
        **plan: Any,
    ) -> Evaluation:
        """`outcomes`: a letter a prompt, in the drawn order: w won, l lost, t tied, b both bad, = the same answer twice, x left out.
        `open_pairs`: so many more that nobody judged. `longer`: words by which new answers are longer."""
        self.numbers += 1
        judges = [self.person(number).id for number in range(people)]
        draw = random.Random(self.numbers)
        with write_session(self.engine) as session:
            row = Evaluation(
                **{
                    "project_id": self.project.id,
                    "number": self.numbers,
                    "checkpoint_id": (checkpoint or self.checkpoint).id,
                    "opponent_id": opponent.id if opponent else None,
                    "opponent_model": "" if opponent else "tiny",
                    "state": state,
                    "goal": "superiority",
                    "margin": 0.05,
                    "maximum": len(outcomes) + open_pairs,
                    "prompts": {"kind": "eval_split"},
                    "sampling": {"temperature": 0.7},
                    "seed": 7,
                    "plan_sha256": "ab" * 32,
                    "created_by_id": self.engineer.id,
                    "asking_at": BEGAN,
                    "ended_at": None if state in (EvaluationState.ASKING, EvaluationState.PREPARING) else BEGAN,
                    **plan,
                }
            )
            session.add(row)
            session.flush()
            for place, letter in enumerate(outcomes + "?" * open_pairs):
                self._pair(session, row, place, letter, judges, draw, longer, (tells or {}).get(place, []), texts)
        return row

    def _pair(
        self,
        session: Any,
        row: Evaluation,
        place: int,
        letter: str,
        judges: list[int],
        draw: random.Random,
        longer: int,
        tells: list[str],
        texts: tuple[str, str] | None,
    ) -> None:
        name = f"{row.id}-{place}"
        prompt = Prompt(
            project_id=self.project.id,
            content_hash=_hash(f"prompt {name}"),
            messages=[{"role": "user", "content": f"How do I export report {name}?"}],
            split=Split.EVAL,
        )
        session.add(prompt)
        session.flush()
        new_text, old_text = texts or (
            f"Open Reports, choose {name} and press Export. The file is sent to you by mail.",
            f"You can export report {name} from the menu. Please wait until it is there.",
        )
        answers = [
            Response(
                prompt_id=prompt.id,
                content_hash=_hash(f"{side} {name}"),
                text=text,
                characters=len(text),
                words=max(1, words),
            )
            for side, text, words in (
                ("new", new_text, 20 + longer + draw.randint(-4, 4)),
                ("old", old_text, 20 + draw.randint(-4, 4)),
            )
        ]
        session.add_all(answers)
        session.flush()
        new, old = answers
        value = {"w": 1.0, "l": 0.0, "t": 0.5, "b": 0.5, "=": 0.5}.get(letter)
        comparison = None
        if letter not in "=x":
            new_first = draw.random() < 0.5
            first, second = (new, old) if new_first else (old, new)
            comparison = Comparison(
                project_id=self.project.id,
                prompt_id=prompt.id,
                first_response_id=first.id,
                second_response_id=second.id,
                pair_hash=_hash(f"pair {name}"),
                evaluation_id=row.id,
            )
            session.add(comparison)
            session.flush()
            if value is not None:
                won = Choice.FIRST if (letter == "w") is new_first else Choice.SECOND
                choice = {"t": Choice.TIE, "b": Choice.BOTH_BAD}.get(letter, won)
                shown = BEGAN + timedelta(minutes=place)
                session.add(
                    Judgment(
                        project_id=self.project.id,
                        comparison_id=comparison.id,
                        user_id=judges[place % len(judges)],
                        choice=choice,
                        first_side=draw.choice([Side.LEFT, Side.RIGHT]),
                        shown_at=shown,
                        submitted_at=shown + timedelta(seconds=draw.randint(15, 50)),
                    )
                )
        session.add(
            EvaluationPair(
                evaluation_id=row.id,
                place=place,
                prompt_id=prompt.id,
                new_response_id=new.id,
                old_response_id=new.id if letter == "=" else old.id,
                comparison_id=comparison.id if comparison else None,
                same=letter == "=",
                left_out="failed" if letter == "x" else "",
                tells={"new": tells, "old": []} if tells else {},
                value=value,
            )
        )


def outcomes(won: int, lost: int, tied: int = 0, same: int = 0, seed: int = 1) -> str:
    """So many of each, in an order that has nothing to do with them."""
    letters = list("w" * won + "l" * lost + "t" * tied + "=" * same)
    random.Random(seed).shuffle(letters)
    return "".join(letters)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
