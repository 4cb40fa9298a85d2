"""Options that several commands take."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
ActAs = Annotated[str | None, typer.Option("--as", help="Account to act as. Default: the first admin.")]
