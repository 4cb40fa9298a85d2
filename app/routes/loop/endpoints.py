"""Endpoints, for admins: servers that give answers."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, PrefloopError
from app.models import Endpoint
from app.services.loop import endpoints
from app.services.loop.endpoints import Wanted
from app.web.deps import AdminDep, EngineDep, RowId, SessionDep, SettingsDep
from app.web.templating import redirect, render

router = APIRouter(prefix="/endpoints")


class NewForm(BaseModel):
    """Text as it was typed."""

    name: str = ""
    base_url: str = ""
    model: str = ""
    api_key: str = ""
    key_variable: str = ""
    requests_per_minute: str = ""
    at_once: str = "4"
    price_prompt: str = ""
    price_completion: str = ""
    currency: str = ""

    def wanted(self) -> Wanted:
        """Raises Invalid with the field."""
        rate = _whole(self.requests_per_minute, "requests_per_minute")
        at_once = _whole(self.at_once, "at_once")
        return Wanted(
            self.name, self.base_url, self.model, self.api_key, self.key_variable,
            rate, at_once or 0,
            _number(self.price_prompt, "price_prompt"), _number(self.price_completion, "price_completion"), self.currency,
        )  # fmt: skip


class ChangeForm(NewForm):
    drop_key: bool = False

    @classmethod
    def of(cls, row: Endpoint) -> "ChangeForm":
        """As it stands, its sealed key left out."""
        names = set(NewForm.model_fields) - {"api_key"}
        return cls(**{name: "" if (value := getattr(row, name)) is None else f"{value}" for name in names})


@dataclass(frozen=True, slots=True)
class EndpointsPage:
    """`changed`: the endpoint whose description stands in the form; None: a new one."""

    endpoints: list[Endpoint]
    hosts: list[str]
    form: NewForm
    errors: dict[str, str] = field(default_factory=dict)
    changed: Endpoint | None = None


@router.get("")
def show(request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    return render(request, "loop/endpoints/show.html", _page(session, settings, NewForm()))


@router.post("")
def add(
    request: Request, form: Annotated[NewForm, Form()], session: SessionDep, user: AdminDep, settings: SettingsDep
) -> Response:
    try:
        row = endpoints.add(session, wanted=form.wanted(), by=user, settings=settings)
    except PrefloopError as error:
        errors = {str(error.details.get("field", "name")): str(error)}
        page = _page(session, settings, form.model_copy(update={"api_key": ""}), errors)
        return render(request, "loop/endpoints/show.html", page, status=error.status)
    return redirect("/endpoints", f"{row.name} was added.", "good")


@router.get("/{endpoint_id}")
def edit(endpoint_id: RowId, request: Request, session: SessionDep, user: AdminDep, settings: SettingsDep) -> Response:
    row = endpoints.get(session, endpoint_id)
    return render(request, "loop/endpoints/show.html", _page(session, settings, ChangeForm.of(row), changed=row))


@router.post("/{endpoint_id}")
def change(
    endpoint_id: RowId,
    request: Request,
    form: Annotated[ChangeForm, Form()],
    engine: EngineDep,
    user: AdminDep,
    settings: SettingsDep,
) -> Response:
    try:
        with write_session(engine) as session:
            row = endpoints.get(session, endpoint_id)
            endpoints.change(
                session, endpoint=row, wanted=form.wanted(), by=session.merge(user, load=False), settings=settings,
                drop_key=form.drop_key,
            )  # fmt: skip
            name = row.name
    except (Invalid, Conflict) as error:
        errors = {str(error.details.get("field", "name")): str(error)}
        with read_session(engine) as session:
            row = endpoints.get(session, endpoint_id)
            page = _page(session, settings, form.model_copy(update={"api_key": ""}), errors, changed=row)
            return render(request, "loop/endpoints/show.html", page, status=error.status)
    return redirect("/endpoints", f"{name} was changed.", "good")


@router.post("/{endpoint_id}/remove")
def remove(endpoint_id: RowId, session: SessionDep, user: AdminDep) -> Response:
    row = endpoints.get(session, endpoint_id)
    name = row.name
    endpoints.remove(session, endpoint=row, by=user)
    return redirect("/endpoints", f"{name} was removed. What it answered stays.")


def _page(
    session: Session,
    settings: Settings,
    form: NewForm,
    errors: dict[str, str] | None = None,
    changed: Endpoint | None = None,
) -> EndpointsPage:
    hosts = list(filter(None, settings.endpoint_hosts.split(",")))
    return EndpointsPage(endpoints.listing(session), hosts, form, errors or {}, changed)


def _whole(text: str, name: str) -> int | None:
    digits = text.strip()
    if digits and not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise Invalid(f"“{text[:40]}” isn't a whole number.", "Choose one, in digits.", field=name)
    return int(digits) if digits else None


def _number(text: str, name: str) -> float | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise Invalid(f"“{text[:40]}” isn't a number.", "Write digits, with a point.", field=name) from None
