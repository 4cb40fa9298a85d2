"""prefloop token …"""

from typing import Annotated

import typer

from app.commands.context import acting_user, console, show
from app.commands.options import AsJson
from app.db import read_session, write_session
from app.services.accounts import tokens

token = typer.Typer(no_args_is_help=True, help="API tokens.")


@token.command("create")
def create_token(
    name: str, user: Annotated[str | None, typer.Option("--user", help="Owner. Default: the first admin.")] = None
) -> None:
    """Create an API token and print it, once. It acts with its owner's role."""
    with write_session() as session:
        _, secret = tokens.create(session, user=acting_user(session, user), name=name)
    print(secret)


@token.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """Show the tokens, without their secrets."""
    with read_session() as session:
        show(
            (
                {
                    "id": row.id,
                    "name": row.name,
                    "owner": row.user.username,
                    "starts_with": row.prefix,
                    "created": row.created_at,
                    "last_used": row.last_used_at,
                    "revoked": row.revoked_at,
                }
                for row in tokens.listing(session)
            ),
            as_json=as_json,
            empty="No tokens yet. Make one: prefloop token create NAME",
        )


@token.command("revoke")
def revoke_token(token_id: int) -> None:
    """End a token at once."""
    with write_session() as session:
        tokens.revoke(session, token_id=token_id, by=None)
    console.print("The token was revoked.")
