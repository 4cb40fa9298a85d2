"""A form's route without what FastAPI does for each request: for the desk, which is asked more often than all other pages together.

FastAPI matches a route twice, asks each dependency in turn and reads a form through a parser for files. Here a form is read at once,
one function answers it in one thread, and what holds for every route goes on: errors become pages in `failures`, the use of the session
is noted after the reply. See `docs/decisions/037-a-direct-route.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.web.deps import Work, note_use

URLENCODED = b"application/x-www-form-urlencoded"
MOST_FIELDS = 1_000  # as Starlette's parser has it

Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Direct(Generic[Form]):
    """An ASGI endpoint: `answer(request, work, form)` runs in a thread. `path`: the route's pattern, for logs and metrics."""

    path: str
    form: type[Form]
    answer: Callable[[Request, Work, Form], Response]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        request = Request(scope, receive, send)
        form = self._read(await _sent(request))
        state = request.app.state
        response = await run_in_threadpool(self.answer, request, Work(request, state.engine, state.settings), form)
        await response(scope, receive, send)
        await note_use(request)

    def _read(self, sent: FormData) -> Form:
        """Raises RequestValidationError. An empty field is one that wasn't filled in, as in FastAPI's forms."""
        values: dict[str, Any] = {}
        for name, field in self.form.model_fields.items():
            value = sent.getlist(name) if field.annotation == list[str] else sent.get(name)
            if value:
                values[name] = value
        try:
            return self.form.model_validate(values)
        except ValidationError as error:
            raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from None


async def _sent(request: Request) -> FormData:
    if request.headers.get("content-type", "").encode() != URLENCODED:
        return await request.form()
    try:
        fields = parse_qsl((await request.body()).decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise HTTPException(400) from None
    return FormData([*fields])
