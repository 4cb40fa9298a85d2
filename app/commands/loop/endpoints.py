"""prefloop endpoints …"""

import sys
from typing import Annotated, Any

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import ActAs, AsJson
from app.config import get_settings
from app.db import read_session, write_session
from app.services.loop import endpoints as endpoint_service
from app.services.loop.endpoints import Wanted

endpoints = typer.Typer(no_args_is_help=True, help="Servers with OpenAI's API that give answers.")


@endpoints.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """Show the servers that give answers."""
    with read_session() as session:
        show(
            (
                {
                    "name": row.name,
                    "base_url": row.base_url,
                    "model": row.model,
                    "key": row.key_variable or ("sealed" if row.key_sealed else "none"),
                    "at_once": row.at_once,
                    "a_minute": row.requests_per_minute,
                    "price_prompt": row.price_prompt,
                    "price_completion": row.price_completion,
                    "currency": row.currency,
                }
                for row in endpoint_service.listing(session)
            ),
            as_json=as_json,
            empty="No endpoints yet: prefloop endpoints add NAME --url URL --model MODEL",
        )


@endpoints.command("add")
def add_endpoint(
    name: str,
    url: Annotated[str, typer.Option(help="Address of its API, such as http://127.0.0.1:8080/v1.")],
    model: Annotated[str, typer.Option(help="The model, as the server calls it.")],
    key_variable: Annotated[str, typer.Option(help="The workers' variable that holds its key.")] = "",
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read its key from standard input; it is sealed.")
    ] = False,
    at_once: Annotated[int, typer.Option(help="Calls at once.")] = 4,
    a_minute: Annotated[int | None, typer.Option(help="Calls a minute at most.")] = None,
    price_prompt: Annotated[float | None, typer.Option(help="Price of a million tokens that it reads.")] = None,
    price_completion: Annotated[float | None, typer.Option(help="Price of a million tokens that it writes.")] = None,
    currency: Annotated[str, typer.Option(help="Three letters, such as EUR.")] = "",
    as_user: ActAs = None,
) -> None:
    """Add a server. PREFLOOP_ENDPOINT_HOSTS must name it."""
    key = sys.stdin.readline().strip() if key_stdin else ""
    wanted = Wanted(name, url, model, key, key_variable, a_minute, at_once, price_prompt, price_completion, currency)
    with write_session() as session:
        by = acting_user(session, as_user)
        row = endpoint_service.add(session, wanted=wanted, by=by, settings=get_settings())
    console.print(f"Endpoint {row.name} was added. Ask it: prefloop generate PROJECT --from endpoint:{row.name}")


@endpoints.command("change")
def change_endpoint(
    name: str,
    url: Annotated[str | None, typer.Option(help="Address of its API.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, as the server calls it.")] = None,
    rename: Annotated[str | None, typer.Option(help="Another name.")] = None,
    key_variable: Annotated[str, typer.Option(help="The workers' variable that holds its key.")] = "",
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read another key from standard input; it is sealed.")
    ] = False,
    no_key: Annotated[bool, typer.Option("--no-key", help="It needs no key any more.")] = False,
    at_once: Annotated[int | None, typer.Option(help="Calls at once.")] = None,
    a_minute: Annotated[int | None, typer.Option(help="Calls a minute at most; 0: no limit.")] = None,
    price_prompt: Annotated[float | None, typer.Option(help="Price of a million tokens that it reads.")] = None,
    price_completion: Annotated[float | None, typer.Option(help="Price of a million tokens that it writes.")] = None,
    currency: Annotated[str | None, typer.Option(help="Three letters, such as EUR.")] = None,
    as_user: ActAs = None,
) -> None:
    """Describe a server anew. What isn't named stays, its key too unless its server becomes another one."""
    key = sys.stdin.readline().strip() if key_stdin else ""
    with write_session() as session:
        row = endpoint_service.by_name(session, name)
        rate = row.requests_per_minute if a_minute is None else a_minute or None
        told = {
            "name": rename, "base_url": url, "model": model, "at_once": at_once, "price_prompt": price_prompt,
            "price_completion": price_completion, "currency": currency,
        }  # fmt: skip
        kept: dict[str, Any] = {field: getattr(row, field) if value is None else value for field, value in told.items()}
        wanted = Wanted(**kept, key=key, key_variable=key_variable, requests_per_minute=rate)
        by = acting_user(session, as_user)
        endpoint_service.change(session, endpoint=row, wanted=wanted, by=by, settings=get_settings(), drop_key=no_key)
        name = row.name
    console.print(f"Endpoint {name} was changed.")


@endpoints.command("remove")
def remove_endpoint(name: str, as_user: ActAs = None) -> None:
    """Nothing asks this server any more. What it answered stays."""
    with write_session() as session:
        row = endpoint_service.by_name(session, name)
        endpoint_service.remove(session, endpoint=row, by=acting_user(session, as_user))
    console.print(f"Endpoint {name} was removed.")
