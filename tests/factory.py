"""Rows for tests, made through the services as the product makes them."""

from collections.abc import Sequence

from sqlalchemy import Engine

from app.config import Settings
from app.db import write_session
from app.models import Comparison, Judgment, Project, Role, Snapshot, User
from app.services.accounts import users
from app.services.collecting import desk, judgments, pairs, projects
from app.services.collecting.desk import ShownPair
from app.services.collecting.pairs import NewPair
from app.services.datasets import snapshots


class Factory:
    """Each method commits and returns a detached row."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self._counter = 0

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def user(self, role: Role = Role.EVALUATOR, username: str | None = None, password: str | None = None) -> User:
        username = username or f"{role.value}-{self._next()}"
        with write_session(self.engine) as session:
            return users.create(session, username=username, display_name=username.title(), role=role, password=password)

    def admin(self) -> User:
        return self.user(Role.ADMIN)

    def engineer(self) -> User:
        return self.user(Role.ENGINEER)

    def project(self, *, by: User | None = None, slug: str | None = None, **rules: object) -> Project:
        """Open to everybody unless `rules` say otherwise."""
        by = by or self.user(Role.ADMIN)
        with write_session(self.engine) as session:
            slug = slug or f"project-{self._next()}"
            return projects.create(
                session,
                slug=slug,
                name=slug.replace("-", " ").title(),
                by=by,
                guidelines="Pick the shorter answer.",
                **{"open_to_everybody": True, **rules},
            )

    def comparison(
        self, project: Project, *, prompt: str | None = None, answers: tuple[str, str] | None = None, **more: object
    ) -> Comparison:
        number = self._next()
        with write_session(self.engine) as session:
            row, added = pairs.add(
                session,
                project=session.merge(project),
                prompt=[{"role": "user", "content": prompt or f"Question {number}?"}],
                responses=answers or (f"Answer one to {number}.", f"A second, longer answer to {number}."),
                **more,
            )
            assert added
            return row

    def comparisons(self, project: Project, count: int) -> list[Comparison]:
        """In one transaction, as an import stores them."""
        new = []
        for _ in range(count):
            number = self._next()
            answers = (f"Answer one to {number}.", f"A second, longer answer to {number}.")
            new.append(NewPair([{"role": "user", "content": f"Question {number}?"}], answers))
        with write_session(self.engine) as session:
            stored = pairs.add_many(session, project=session.merge(project), pairs=new)
            return [session.get_one(Comparison, at.comparison_id) for at in stored]

    def judge(self, project: Project, user: User, choice: str = "left", **more: object) -> Judgment | None:
        """Takes the user's next pair and judges it; None when nothing waits."""
        return self._judge(project, user, [choice], **more)[0]

    def _judge(self, project: Project, user: User, choices: Sequence[str], **more: object) -> list[Judgment | None]:
        with write_session(self.engine) as session:
            project, user = session.merge(project), session.merge(user)
            made = []
            for choice in choices:
                pair = desk.show_next(session, project=project, user=user)
                made.append(
                    judgments.record(session, token=pair.token, user=user, choice=choice, **more) if pair else None
                )
            return made

    def shown(self, project: Project, user: User, **more: object) -> ShownPair | None:
        """The user's next pair, on the desk."""
        with write_session(self.engine) as session:
            return desk.show_next(session, project=session.merge(project), user=session.merge(user), **more)

    def record(self, token: str, user: User, choice: str = "left", **more: object) -> Judgment:
        with write_session(self.engine) as session:
            return judgments.record(session, token=token, user=session.merge(user), choice=choice, **more)

    def undo(self, project: Project, user: User) -> ShownPair | None:
        with write_session(self.engine) as session:
            return desk.undo(session, project=session.merge(project), user=session.merge(user))

    def judged(self, count: int = 8, **rules: object) -> Project:
        """A project with `count` comparisons, each judged once by one evaluator."""
        project = self.project(**rules)
        self.comparisons(project, count)
        evaluator = self.user()
        assert all(self._judge(project, evaluator, ["left" if number % 2 else "right" for number in range(count)]))
        return project

    def snapshot(self, project: Project | None = None) -> Snapshot:
        from app.storage import get_storage

        project = project or self.judged()
        return snapshots.freeze(self.engine, project=project, by_id=None, storage=get_storage(self.settings))
