"""prefloop user …, prefloop audit"""

from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from app.commands.context import as_called, console, show
from app.commands.options import AsJson
from app.config import get_settings
from app.db import get_engine, read_session, write_session
from app.models import ProjectRole, Role
from app.services.accounts import audit, links, members, passkeys, second_factor, sessions, users
from app.services.loop.removal import people
from app.services.loop.removal.people import Votes
from app.storage import get_storage

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
                    "who": who or ("not signed in" if entry.address else "command line"),
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
                    "second_factor": row.has_second_factor,
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
def set_password(
    username: str,
    keep_tokens: Annotated[bool, typer.Option("--keep-tokens", help="Leave the account's API tokens alive.")] = False,
) -> None:
    """Set a password, sign the account out everywhere and end its API tokens."""
    secret = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
    hashed = users.hashed(secret, username)
    with write_session() as session:
        person = users.get(session, username)
        users.set_password(session, user=person, password=hashed, by=None, keep_tokens=keep_tokens)
    console.print("The password was changed, and the account was signed out everywhere.")
    if not keep_tokens:
        console.print("Its API tokens were ended.")
    if person.has_passkey:
        console.print("Each of its passkeys asks for the new password once.")


@user.command("sessions")
def list_sessions(username: str, as_json: AsJson = False) -> None:
    """Show where an account is signed in."""
    with read_session() as session:
        show(
            (
                {
                    "id": row.id,
                    "browser": row.user_agent,
                    "address": row.address,
                    "since": row.created_at,
                    "last_used": row.last_used_at,
                    "ends": row.expires_at,
                }
                for row in sessions.listing(session, user=users.get(session, username))
            ),
            as_json=as_json,
            empty=f"{username} is signed in nowhere.",
        )


@user.command("passkeys")
def list_passkeys(username: str, as_json: AsJson = False) -> None:
    """Show the passkeys of an account."""
    with read_session() as session:
        show(
            (
                {
                    "id": row.id,
                    "name": row.name,
                    "signs_in": "alone" if row.alone else "beside a password or link",
                    "since": row.created_at,
                    "last_used": row.last_used_at,
                }
                for row in passkeys.listing(session, user=users.get(session, username))
            ),
            as_json=as_json,
            empty=f"{username} has no passkeys.",
        )


@user.command("sign-out")
def sign_out(
    username: str,
    session_id: Annotated[
        int | None, typer.Option("--session", help="Only this one of `prefloop user sessions`.")
    ] = None,
) -> None:
    """End an account's sessions."""
    with write_session() as session:
        person = users.get(session, username)
        if session_id is not None:
            sessions.revoke(session, session_id=session_id, user=person)
            ended = 1
        else:
            ended = sessions.revoke_all(session, user=person)
    console.print(f"{ended} browser{'' if ended == 1 else 's'} signed out.")


@user.command("reset-second-factor")
def reset_second_factor(username: str) -> None:
    """End app, passkeys and recovery codes of somebody who lost them."""
    with write_session() as session:
        second_factor.reset(session, user=users.get(session, username), by=None)
    console.print(f"The second factor of {username} is off. For a link: prefloop user link {username}")


@user.command("erase")
def erase(
    username: str,
    votes: Annotated[Votes, typer.Option(help="What becomes of their judgments.")] = Votes.KEEP,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a person's name and account out of everything, for good. Their judgments stay as a former evaluator's, or are left out."""
    if not yes:
        typer.confirm(f"Erase {username}? This can't be undone.", abort=True)
    erased = people.erase(get_engine(), get_storage(get_settings()), username=username, by_id=None, votes=votes)
    if as_json:
        show([asdict(erased)], as_json=True, empty="")
        return
    left_out = ", left out of new snapshots" if erased.excluded else ""
    console.print(f"{username} is “{erased.now_called}” from now on: {erased.judgments:,} judgments{left_out}.")
    for one in erased.snapshots:
        console.print(f"Snapshot {one.number} of {one.project} was made from their votes; its files hold no names.")
    for one in erased.checkpoints:
        console.print(f"The files of checkpoint {one.id} ({one.project}) name them as who started the run.")


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
