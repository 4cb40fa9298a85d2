"""prefloop user …, prefloop audit"""

from typing import Annotated

import typer
from sqlalchemy.orm import Session

from app.commands.context import as_called, console, show
from app.commands.options import AsJson
from app.config import get_settings
from app.db import read_session, write_session
from app.models import ProjectRole, Role
from app.services.accounts import audit, links, members, users

user = typer.Typer(no_args_is_help=True, help="Accounts.")


def read_audit(
    username: Annotated[str, typer.Option("--user", help="Only what this account did.")] = "",
    action: Annotated[str, typer.Option(help="Only actions that start with this, e.g. job or job.cancel.")] = "",
    page: int = 1,
    as_json: AsJson = False,
) -> None:
    """Show who did what to which row, the newest first."""
    with read_session() as session:
        show(
            (
                {
                    "at": entry.at,
                    "who": who or "command line",
                    "action": entry.action,
                    "target": entry.target,
                    "detail": entry.detail,
                }
                for entry, who in audit.listing(session, username=username, action=action, page=page).items
            ),
            as_json=as_json,
            empty="Nothing was recorded.",
        )


@user.command("add")
def add_user(
    username: str,
    role: Annotated[Role, typer.Option(help="What the account may do.")] = Role.EVALUATOR,
    name: Annotated[str, typer.Option(help="Name that others see.")] = "",
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password now. Without one, only links sign in.")
    ] = False,
) -> None:
    """Create an account and print a link that signs it in once."""
    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else None
    hashed = users.hashed(secret, username) if secret is not None else None
    with write_session() as session:
        row = users.create(session, username=username, display_name=name or username, role=role, password=hashed)
        link = links.create_sign_in(session, user=row)
    console.print(f"“{row.username}” was created as {row.role.value}. This link signs them in once:")
    console.print(f"{get_settings().base_url}/link/{link}")


@user.command("list")
def list_users(as_json: AsJson = False) -> None:
    """Show the accounts."""
    with read_session() as session:
        show(
            (
                {
                    "username": row.username,
                    "name": row.display_name,
                    "role": row.role.value,
                    "active": row.active,
                    "last_seen": row.last_seen_at,
                }
                for row in users.listing(session)
            ),
            as_json=as_json,
            empty="No accounts yet. Make one: prefloop user add NAME --role admin",
        )


@user.command("link")
def sign_in_link(username: str) -> None:
    """Print a link that signs an account in once."""
    with write_session() as session:
        link = links.create_sign_in(session, user=users.get(session, username))
    console.print(f"{get_settings().base_url}/link/{link}")


@user.command("role")
def change_role(username: str, role: Role) -> None:
    """Change what an account may do."""
    with write_session() as session:
        users.set_role(session, user=users.get(session, username), role=role, by=None)
    console.print(f"{username} is now {role.value}.")


@user.command("password")
def set_password(username: str) -> None:
    """Set a password and sign the account out everywhere."""
    secret = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
    hashed = users.hashed(secret, username)
    with write_session() as session:
        users.set_password(session, user=users.get(session, username), password=hashed, by=None)
    console.print("The password was changed, and the account was signed out everywhere.")


@user.command("invite")
def invite(
    role: Annotated[Role, typer.Option(help="What the new account may do.")] = Role.EVALUATOR,
    note: Annotated[str, typer.Option(help="Who it is for, to tell invitations apart.")] = "",
    projects: Annotated[
        list[str] | None,
        typer.Option("--project", help="SLUG or SLUG=ROLE (evaluator, lead, engineer); may be repeated."),
    ] = None,
) -> None:
    """Print a link with which one person can create an account."""
    with write_session() as session:
        link = links.invite(session, role=role, by=None, note=note, projects=_places(projects or []))
    console.print(f"{get_settings().base_url}/link/{link}")


def _places(words: list[str]) -> dict[str, ProjectRole]:
    """`slug` or `slug=role` words as what somebody becomes in which project."""
    parts = (word.partition("=") for word in words)
    return {slug: members.role_of(role or ProjectRole.EVALUATOR) for slug, _, role in parts}


@user.command("invitations")
def list_invitations(as_json: AsJson = False) -> None:
    """Show the invitations that nobody has used yet."""
    with read_session() as session:
        show(
            _invitations(session),
            as_json=as_json,
            empty="No open invitation. Make one: prefloop user invite",
        )


def _invitations(session: Session) -> list[dict[str, object]]:
    rows = links.open_invitations(session)
    promised = members.promises(session, link_ids=[row.id for row in rows])
    return [
        {
            "id": row.id,
            "role": row.role.value if row.role else "",
            "projects": ", ".join(f"{one.slug}={one.role.value}" for one in promised.get(row.id, [])),
            "note": row.note,
            "expires": row.expires_at,
        }
        for row in rows
    ]


@user.command("withdraw")
def withdraw(invitation_id: int) -> None:
    """Withdraw an invitation that nobody has used."""
    with write_session() as session:
        links.withdraw(session, link_id=invitation_id, by=None)
    console.print("The invitation was withdrawn.")


@user.command("activate")
def activate(username: str) -> None:
    """Let a deactivated account sign in again."""
    with write_session() as session:
        users.set_active(session, user=users.get(session, username), active=True, by=None)
    console.print(f"{username} can sign in again. For a link: {as_called()} user link {username}")


@user.command("deactivate")
def deactivate(username: str) -> None:
    """Stop an account from signing in. Its judgments stay."""
    with write_session() as session:
        users.set_active(session, user=users.get(session, username), active=False, by=None)
    console.print(f"{username} can no longer sign in.")
