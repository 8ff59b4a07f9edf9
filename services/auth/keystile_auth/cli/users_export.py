"""`keystile users export`: every user, as `keystile users import` reads them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from keystile_auth.cli.session import CommandError, open_session, run
from keystile_auth.cli.user_files.writing import line_of
from keystile_auth.store.users import UserStore
from keystile_common.audit import Actor, EventType


def export_users(
    output: Annotated[Path | None, typer.Option(help="A file to make, for you alone; else standard output.")] = None,
    with_password_hashes: Annotated[
        bool, typer.Option("--with-password-hashes", help="With what passwords can be guessed from; keep it safe.")
    ] = False,
) -> None:
    """Write all users as JSON, one a line."""
    if with_password_hashes and output is None and sys.stdout.isatty():
        raise CommandError("Password hashes are not shown on a terminal; name a file with --output.")
    with _opened(output) as stream:
        count = run(_export(stream, with_password_hashes))
    typer.echo(f"{count} users written.", err=True)


async def _export(stream: TextIO, with_password_hashes: bool) -> int:
    count = 0
    async with open_session() as session:
        async for user in UserStore(session.store).scan():
            stream.write(line_of(user, with_password_hash=with_password_hashes) + "\n")
            count += 1
        target = {"users": str(count), "password_hashes": "yes" if with_password_hashes else "no"}
        session.audit.record(EventType.USERS_EXPORTED, "success", Actor(), reason="operator", target=target)
    return count


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        # Made here, never one that is there: neither its mode nor what it is a link to is somebody else's choice.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f"{path} is there already; name a file that is not.") from None
    except OSError as problem:
        raise CommandError(f"{path} cannot be written: {problem.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            yield stream
    except BaseException:
        path.unlink()  # half of the users must not look like all of them
        raise
