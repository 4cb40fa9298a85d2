"""How the API says that something went wrong: problem details (RFC 9457) with a stable `code` and a next step."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(description="Where it is, e.g. `body.config.beta`.")
    message: str


class Problem(BaseModel):
    """An error. Facts of the particular error (e.g. `retry_after`) come as further members."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str = Field(description="The HTTP status in words.")
    status: int
    code: str = Field(description="A stable name for scripts.")
    detail: str = Field(description="What happened.")
    next_step: str = Field("", description="What to do about it.")
    request_id: str = Field("", description="To find this request in the server's log.")
    errors: list[FieldProblem] = []


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: it may answer with these errors, each a Problem. The whole API declares 400, 401,
    403, 413, 422 and 503 already."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def say_media_type(schema: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with Problems under the media type they are sent with."""
    for operations in schema.get("paths", {}).values():
        for operation in operations.values():
            for response in operation.get("responses", {}).values():
                content = response.get("content", {})
                if content.get("application/json", {}).get("schema", {}).get("$ref", "").endswith("/Problem"):
                    content[MEDIA_TYPE] = content.pop("application/json")
    return schema
