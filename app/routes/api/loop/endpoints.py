"""Endpoints over the API, for admins: servers that give answers."""

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.models import Endpoint
from app.services.loop import endpoints
from app.services.loop.endpoints import Wanted
from app.web.deps import ApiAdminDep, RowId, SessionDep, SettingsDep
from app.web.problems import problems

router = APIRouter(tags=["endpoints"])


class NewEndpoint(BaseModel):
    """A server with OpenAI's chat completions, such as vLLM, Ollama or llama.cpp's server."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64)
    base_url: str = Field(max_length=500, examples=["http://127.0.0.1:8080/v1"])
    model: str = Field(max_length=255, description="As the server calls it.")
    key: str = Field("", max_length=4000, description="Kept sealed; no answer shows it.")
    key_variable: str = Field(
        "", max_length=120, description="Instead: PREFLOOP_ENDPOINT_KEY…, a variable of the workers."
    )
    requests_per_minute: int | None = None
    at_once: int = 4
    price_prompt: float | None = Field(None, description="Of a million tokens that it reads.")
    price_completion: float | None = Field(None, description="Of a million tokens that it writes.")
    currency: str = Field("", max_length=3)


class ChangedEndpoint(NewEndpoint):
    """An endpoint as it is to be. Without `key` and `key_variable` its key stays, unless its server becomes another one."""

    drop_key: bool = Field(False, description="It needs no key any more.")


class EndpointOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    base_url: str
    model: str
    key_variable: str
    has_key: bool
    requests_per_minute: int | None
    at_once: int
    price_prompt: float | None
    price_completion: float | None
    currency: str
    created_at: datetime

    @classmethod
    def of(cls, row: Endpoint) -> "EndpointOut":
        names = [name for name in cls.model_fields if name != "has_key"]
        return cls(**{name: getattr(row, name) for name in names}, has_key=bool(row.key_sealed or row.key_variable))


@router.get("/endpoints")
def listing(session: SessionDep, user: ApiAdminDep) -> list[EndpointOut]:
    """Servers that give answers, by name."""
    return [EndpointOut.of(row) for row in endpoints.listing(session)]


@router.post("/endpoints", status_code=201, responses=problems(409))
def add(body: NewEndpoint, session: SessionDep, user: ApiAdminDep, settings: SettingsDep) -> EndpointOut:
    """Add a server. `PREFLOOP_ENDPOINT_HOSTS` must name it; nothing is asked of it yet."""
    return EndpointOut.of(endpoints.add(session, wanted=Wanted(**body.model_dump()), by=user, settings=settings))


@router.put("/endpoints/{endpoint_id}", responses=problems(404, 409))
def change(
    endpoint_id: RowId, body: ChangedEndpoint, session: SessionDep, user: ApiAdminDep, settings: SettingsDep
) -> EndpointOut:
    """Describe a server anew: what asks it from now on asks as it says."""
    row = endpoints.get(session, endpoint_id)
    wanted = Wanted(**body.model_dump(exclude={"drop_key"}))
    return EndpointOut.of(
        endpoints.change(session, endpoint=row, wanted=wanted, by=user, settings=settings, drop_key=body.drop_key)
    )


@router.delete("/endpoints/{endpoint_id}", status_code=204, responses=problems(404))
def remove(endpoint_id: RowId, session: SessionDep, user: ApiAdminDep) -> Response:
    """Nothing asks it any more. What it answered stays."""
    endpoints.remove(session, endpoint=endpoints.get(session, endpoint_id), by=user)
    return Response(status_code=204)
