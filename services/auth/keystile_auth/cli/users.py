"""`keystile users`: local users."""

import sys
import time
from datetime import UTC, datetime

import typer

from keystile_auth.cli.session import CommandError, Session, open_session, run
from keystile_auth.cli.user_sessions import end_all, record_user, sessions_of
from keystile_auth.cli.users_export import export_users
from keystile_auth.cli.users_import import import_users
from keystile_auth.identity.local import LocalUsers
from keystile_auth.store.users import User, UserStore
from keystile_common.audit import EventType
from keystile_common.store import every_step

app = typer.Typer(help="Local users.", no_args_is_help=True, rich_markup_mode=None)
app.command("import")(import_users)
app.command("export")(export_users)


@app.command("add")
def add(username: str) -> None:
    """Create a user. The password is asked for, or read from standard input where that is no terminal."""

    async def work(password: str) -> User:
        async with open_session() as session:
            user = await LocalUsers(UserStore(session.store)).create(username, password, int(time.time()))
            record_user(session, EventType.USER_CREATED, user, "operator")
            return user

    typer.echo(f"Created {username} ({run(work(_password(username))).sub}).")


@app.command("list")
def list_users() -> None:
    """List all users."""

    async def work() -> list[User]:
        async with open_session() as session:
            return await UserStore(session.store).all()

    for user in run(work()):
        created = datetime.fromtimestamp(user.created, UTC).date()
        typer.echo(f"{user.username}\t{user.sub}\t{'disabled' if user.disabled else 'enabled'}\t{created}")


@app.command("password")
def password(username: str) -> None:
    """Give a user another password and end the sessions that the old one began."""

    async def work(new: str) -> None:
        async with open_session() as session:
            user = await _find(session, username)
            with every_step("user.password"):
                await LocalUsers(UserStore(session.store)).set_password(user, new)
                await sessions_of(session).delete_all_of_user(user.sub)
                record_user(session, EventType.USER_UPDATED, user, "password")

    run(work(_password(username)))
    typer.echo(f"{username} has another password and was signed out everywhere.")


@app.command("disable")
def disable(username: str) -> None:
    """Stop a user from signing in and end everything the user has: sessions, grants, tokens."""

    async def work() -> int:
        async with open_session() as session:
            user = await _find(session, username)
            with every_step("user.disable"):
                await UserStore(session.store).set_disabled(user, disabled=True)
                return await end_all(session, user, EventType.USER_UPDATED, "disabled")

    typer.echo(f"{username} is disabled; {run(work())} grants ended.")


@app.command("enable")
def enable(username: str) -> None:
    """Let a disabled user sign in again."""

    async def work() -> None:
        async with open_session() as session:
            user = await _find(session, username)
            await UserStore(session.store).set_disabled(user, disabled=False)
            record_user(session, EventType.USER_UPDATED, user, "enabled")

    run(work())
    typer.echo(f"{username} can sign in again.")


@app.command("delete")
def delete(username: str) -> None:
    """Delete a user with sessions, grants and tokens."""

    async def work() -> int:
        async with open_session() as session:
            user = await _find(session, username)
            with every_step("user.delete"):
                # Disabled first: nothing may begin while the rest is taken down.
                await UserStore(session.store).set_disabled(user, disabled=True)
                ended = await end_all(session, user, EventType.USER_DELETED, "operator")
            # Only now: until then it can be asked again. Were it lost, a disabled user without anything would be left.
            await UserStore(session.store).delete(user)
            return ended

    typer.echo(f"{username} is deleted; {run(work())} grants ended.")


async def _find(session: Session, username: str) -> User:
    users = UserStore(session.store)
    # Names of other identities' users lead to nobody: they are found by their subject.
    user = await users.find_by_name(username) or await users.find(username)
    if user is None:
        raise CommandError(f"There is no user {username}; `keystile users list` shows all.")
    return user


def _password(username: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt(f"Password of {username}", hide_input=True, confirmation_prompt=True))
