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
    name: str,
    user: Annotated[str | None, typer.Option("--user", help="Owner. Default: the first admin.")] = None,
    projects: Annotated[
        list[str] | None, typer.Option("--project", help="Act in this project only; may be repeated.")
    ] = None,
    only_reads: Annotated[bool, typer.Option("--only-reads", help="Change nothing.")] = False,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days until it ends. Default: PREFLOOP_TOKEN_DAYS, a year.")
    ] = None,
    never_ends: Annotated[bool, typer.Option("--never-ends", help="It works until it is revoked.")] = False,
) -> None:
    """Create an API token and print it, once. It acts with its owner's roles."""
    with write_session() as session:
        owner, life = acting_user(session, user), None if never_ends else days or 0
        _, secret = tokens.create(
            session, user=owner, name=name, days=life, projects=projects or None, only_reads=only_reads
        )
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
                    "projects": tokens.reach(row),
                    "created": row.created_at,
                    "last_used": row.last_used_at,
                    "ends": row.expires_at,
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
