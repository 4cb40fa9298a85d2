"""prefloop models …"""

from typing import Annotated

import typer

from app.commands.context import console, show
from app.commands.options import AsJson
from app.config import get_settings
from app.services.training import base_models as model_service

models = typer.Typer(no_args_is_help=True, help="Base models on this machine.")


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Show the base models on this machine."""
    show(
        (
            {
                "name": row.name,
                "parameters": row.parameters,
                "source": row.origin,
                "licence": row.licence,
                "note": row.note,
            }
            for row in model_service.list_models(get_settings())
        ),
        as_json=as_json,
        empty="No base models yet: prefloop models add NAME",
    )


@models.command("add")
def add_model(
    name: str,
    source: Annotated[
        str | None, typer.Option("--from", help="A folder or a hub id. Default: the demo's wheel for its model.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="The base model here that a folder is an adapter to; they are merged.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id. Default: main.")] = None,
) -> None:
    """Prepare a base model once: safetensors, tokenizer, chat template, checked."""
    model = model_service.add(
        get_settings(), name, source, revision=revision, on=on, progress=lambda line: console.print(line)
    )
    console.print(
        f"{model.title} is ready: {model.parameters / 1e6:,.0f} M parameters, licence {model.licence}.", markup=False
    )
    if model.note:
        console.print(f"Note: {model.note}")
    console.print(str(model.path))


@models.command("path")
def model_path(name: str) -> None:
    """Print the local folder of a base model."""
    print(model_service.path(get_settings(), name))
