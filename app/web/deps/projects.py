"""Where somebody asks: the project that the slug or id in the address leads to, and what the person is in it.

Whoever isn't in it hears that it isn't there, in the words for what never was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import look_session, write_session
from app.errors import NotAllowed
from app.models import Project, ProjectRole, User
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.training import parents
from app.services.training.parents import Parent
from app.web import request_state
from app.web.deps.people import (
    EVERYBODY,
    allowed,
    caller_of,
    check_second_factor,
    known_by,
    looked_up,
    token_user,
)
from app.web.deps.work import BearerDep, EngineDep, SessionDep, SettingsDep, UseNoted, client_address
from app.web.request_state import session_token

# What may be done in an archived project: bring it back, delete it, end what still runs.
OPEN_WHILE_ARCHIVED = ("/archive", "/bring-back", "/delete", "/cancel", "/stop")


@dataclass(frozen=True, slots=True)
class Here:
    """Somebody in the project of the address, and what they are there."""

    project: Project
    user: User
    role: ProjectRole

    def within(self, session: Session) -> "Here":
        """The same as rows of `session`. Nothing is read."""
        return Here(session.merge(self.project, load=False), session.merge(self.user, load=False), self.role)


def _arrived(request: Request, session: Session, settings: Settings, least: ProjectRole) -> Here:
    """Who the browser's cookie speaks for, in the project of the address. One query. Raises as `_here`."""
    token = session_token(request, settings.site)
    of, value = _address(request)
    arrived = access.arrive(session, token=token, of=of, value=value, settings=settings) if token else None
    if token is None or arrived is None:
        return _here(request, session, None, least)
    session_id, last_used_at, user, place = arrived
    return _here(request, session, known_by(request, settings, token, user, session_id, last_used_at), least, place)


def _address(request: Request) -> tuple[str, str]:
    """The value in the address that leads to its project, after its name."""
    ((of, value),) = [(name, value) for name, value in request.path_params.items() if name in access.OF]
    return of, value


def _here(
    request: Request, session: Session, user: User | None, least: ProjectRole, place: access.Place | None = None
) -> Here:
    """Raises NotFound where the project is hidden or isn't there, NotAllowed where the role doesn't do, ProjectArchived for a
    change of an archived one."""
    user = check_second_factor(request, allowed(user, EVERYBODY))
    state, caller = request_state.of(request), caller_of(request)
    of, value = _address(request)
    project, role = access.get(session, caller=caller, of=of, value=value, place=place)
    require(role, least)
    if request.method not in ("GET", "HEAD") and not request.url.path.endswith(OPEN_WHILE_ARCHIVED):
        access.require_open(project)
    state.role = role
    signed_in = state.still_in

    def still_in(later: Session) -> bool:
        now = access.find(later, caller=caller, of=of, value=value)
        return signed_in is not None and signed_in(later) and now is not None and now[1].covers(least)

    state.still_in = still_in
    return Here(project, user, role)


def project_to_train(session: Session, *, caller: Caller, of: str, value: str | int) -> Project:
    """The project that a value in a body or a query leads to, for its engineers. Raises NotFound and NotAllowed."""
    project, role = access.get(session, caller=caller, of=of, value=value)
    require(role, ProjectRole.ENGINEER)
    return project


def parent_to_train(session: Session, *, caller: Caller, checkpoint_id: int | None) -> Parent | None:
    """The checkpoint that a run is to start from, of any project that they are an engineer of; None where none is named. Raises
    NotFound and NotAllowed."""
    if checkpoint_id is None:
        return None
    project_to_train(session, caller=caller, of="checkpoint_id", value=checkpoint_id)
    return parents.find(session, checkpoint_id)


def require(role: ProjectRole, least: ProjectRole) -> None:
    """Raises NotAllowed for somebody whose role in a project doesn't do."""
    if not role.covers(least):
        needed = "engineers" if least is ProjectRole.ENGINEER else "leads and engineers"
        raise NotAllowed(
            f"This is for the project's {needed}; your role in it is {role.value}.",
            "The project's engineers and admins can change it.",
        )


def _here_guard(least: ProjectRole) -> Callable[..., Here]:
    def here(request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Here:
        def look(looking: Session) -> Here:
            return _arrived(request, looking, settings, least)

        return looked_up(request, session, engine, look).within(session)

    return here


def _api_here_guard(least: ProjectRole) -> Callable[..., Here]:
    def here(
        request: Request, session: SessionDep, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep
    ) -> Here:
        def look(looking: Session) -> Here:
            return _here(request, looking, token_user(request, looking, settings, bearer), least)

        return looked_up(request, session, engine, look).within(session)

    return here


def _uploader_guard(least: ProjectRole) -> Callable[..., Here]:
    """Looked up in a session that is over before the body is read: an upload may take minutes, and SQLite has one
    writer at a time."""

    def uploader(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Here:
        with look_session(engine) as session:
            return _arrived(request, session, settings, least)

    return uploader


def _api_uploader_guard(least: ProjectRole) -> Callable[..., Here]:
    def uploader(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted, bearer: BearerDep) -> Here:
        with look_session(engine) as session:
            return _here(request, session, token_user(request, session, settings, bearer), least)

    return uploader


MemberDep = Annotated[Here, Depends(_here_guard(ProjectRole.EVALUATOR))]
LeadDep = Annotated[Here, Depends(_here_guard(ProjectRole.LEAD))]
EngineerDep = Annotated[Here, Depends(_here_guard(ProjectRole.ENGINEER))]
LeadUploaderDep = Annotated[Here, Depends(_uploader_guard(ProjectRole.LEAD))]
EngineerUploaderDep = Annotated[Here, Depends(_uploader_guard(ProjectRole.ENGINEER))]
WatcherDep = EngineerUploaderDep  # a stream too: hundreds of pages that come again at once are to cost little
ApiMemberDep = Annotated[Here, Depends(_api_here_guard(ProjectRole.EVALUATOR))]
ApiLeadDep = Annotated[Here, Depends(_api_here_guard(ProjectRole.LEAD))]
ApiEngineerDep = Annotated[Here, Depends(_api_here_guard(ProjectRole.ENGINEER))]
ApiLeadUploaderDep = Annotated[Here, Depends(_api_uploader_guard(ProjectRole.LEAD))]
ApiEngineerUploaderDep = Annotated[Here, Depends(_api_uploader_guard(ProjectRole.ENGINEER))]


@dataclass(frozen=True)
class Work:
    """A member's request, done in one thread from the look-up to the page: each hop to another thread waits for it."""

    request: Request
    engine: Engine
    settings: Settings

    @contextmanager
    def writing(self, least: ProjectRole = ProjectRole.EVALUATOR) -> Iterator[tuple[Session, Here]]:
        """(the unit of work, who asks where). Committed at its end: render what it gives after that."""
        with look_session(self.engine) as looking:
            here = _arrived(self.request, looking, self.settings, least)
        with write_session(self.engine) as session:
            session.info["address"] = client_address(self.request)
            session.add_all((here.project, here.user))  # the session that found them is over
            yield session, here


async def _work(request: Request, engine: EngineDep, settings: SettingsDep, _: UseNoted) -> Work:
    return Work(request, engine, settings)


WorkDep = Annotated[Work, Depends(_work)]
