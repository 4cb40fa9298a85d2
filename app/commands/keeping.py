"""prefloop backup, restore, prune, storage"""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.context import console, show
from app.commands.options import AsJson
from app.config import get_settings


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def make_backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, best on another disk.")],
) -> None:
    """Copy everything that can't be made again into a folder, while people work, and read it again."""
    from app.ops import backup

    contents = backup.make(get_settings(), folder, report=console.print)
    console.print(
        f"{len(contents.files):,} files, {_size(contents.size)}, are in {folder}. It holds the secret key: keep it safe."
    )
    if contents.models:
        console.print(f"Base models aren't in it: {', '.join(str(model['name']) for model in contents.models)}.")


def put_back(
    folder: Annotated[Path, typer.Argument(help="A folder that `prefloop backup` made.", exists=True, file_okay=False)],
    keep_tokens: Annotated[
        bool,
        typer.Option(
            "--keep-tokens",
            help="Leave API tokens alive and passkeys as they were: for a move, where nothing was ended since.",
        ),
    ] = False,
) -> None:
    """Put a backup back into an empty installation. Everybody signs in anew, and API tokens end."""
    from app.ops import restore

    contents = restore.restore(get_settings(), folder, keep_tokens=keep_tokens, report=console.print)
    console.print(f"The backup of {contents.made_at} is back. Sign in: prefloop user link NAME")
    if not keep_tokens:
        console.print("A passkey signs in alone again once it was used beside a password or link.")
    for model in contents.models:
        console.print(f"Add the base model {model['name']} again: prefloop models add {model['name']}")


def remove_spare(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    stored_files: Annotated[
        bool,
        typer.Option(
            "--stored-files",
            help="Also stored files that nothing here names. Not where two installations share a store.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what isn't needed any more, by the ages in the settings (PREFLOOP_KEEP_…). The web server does so once a day."""
    from app.ops import prune

    removed = prune.prune(get_settings(), dry_run=dry_run, stored_files=stored_files)
    show(
        ({"what": one.what, "count": one.count, "bytes": one.bytes} for one in removed if one.count or as_json),
        as_json=as_json,
        empty="There is nothing to remove.",
    )


def show_storage(as_json: AsJson = False) -> None:
    """Show what takes how much room."""
    from app.ops import storage_use

    use = storage_use.measure(get_settings())
    show(
        ({"what": part.name, "bytes": part.bytes, "files": part.files} for part in use.parts),
        as_json=as_json,
        empty="Nothing.",
    )
    if not as_json:
        console.print(f"{_size(use.free)} are free of {_size(use.total)}.")
