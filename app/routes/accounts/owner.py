"""What the forms share by which people change how they sign in: who asks, proven again, and a unit of work as them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db import write_session
from app.errors import Invalid
from app.models import User
from app.services.accounts import logins
from app.web.deps import BrowserDep, EngineDep, SettingsDep, client_address
from app.web.templating import redirect

Password = Annotated[str, Form()]


@dataclass(frozen=True)
class Owner:
    """Whoever uses a signed-in browser."""

    request: Request
    engine: EngineDep
    browser: BrowserDep
    settings: SettingsDep

    @property
    def address(self) -> str:
        return client_address(self.request)

    def prove(self, password: str) -> None:
        """Returns if they signed in a moment ago, or gave their password. Raises Invalid and TooMany."""
        logins.prove(
            self.engine,
            user_id=self.browser.user_id,
            session_id=self.browser.session_id,
            password=password,
            address=self.address,
            settings=self.settings,
        )

    def refused(self, password: str, back: str) -> Response | None:
        """The way back to where they were, with what is wrong, unless they are proven."""
        try:
            self.prove(password)
        except Invalid as problem:
            return redirect(back, str(problem), "bad")
        return None

    @contextmanager
    def writing(self) -> Iterator[tuple[Session, User]]:
        with write_session(self.engine) as session:
            session.info["address"] = self.address
            yield session, session.get_one(User, self.browser.user_id)


OwnerDep = Annotated[Owner, Depends()]
