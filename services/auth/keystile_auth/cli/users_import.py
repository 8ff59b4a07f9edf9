"""`keystile users import`: users of other systems, with their password hashes."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from keystile_auth.cli.import_report import Counts, Progress
from keystile_auth.cli.session import CommandError, Session, open_session, run
from keystile_auth.cli.user_files import READERS, detect
from keystile_auth.cli.user_files.row import BadRow, Row
from keystile_auth.cli.user_files.source import Source, UnreadableFileError
from keystile_auth.cli.user_sessions import end_all, record_user, sessions_of
from keystile_auth.identity.local import LocalUsers, new_sub
from keystile_auth.store.users import User, UserStore
from keystile_common.audit import Actor, EventType
from keystile_common.store import StoreUnavailableError

_AT_ONCE = 500
_CHANGED_AT_ONCE = 32
_MOST_DECOYS = 32
_NAME_TAKEN = "there is a user of this name already, who was left alone; --update changes that one"


@dataclass(frozen=True, slots=True)
class Options:
    """What may be done with what is in the file."""

    dry_run: bool
    update: bool
    plain_passwords: bool


def import_users(
    file: Annotated[str, typer.Argument(help="The file; - is standard input.")],
    format_: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(READERS)}; else it is found out.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Give users that there are the password and state of the file.")
    ] = False,
    plain_passwords: Annotated[
        bool, typer.Option("--plain-passwords", help="Take passwords in plain text too; slow, for each is hashed.")
    ] = False,
) -> None:
    """Take over users from a file: CSV, JSON lines, LDIF, Auth0, Keycloak, Okta.

    Users that there are stay as they are. A run that broke off is begun again and goes on. Ends with 1 when some rows
    could not be taken over, with 2 when nothing could be read.
    """
    if format_ is not None and format_ not in READERS:
        raise CommandError(f"--format must be one of {', '.join(READERS)}.")
    options = Options(dry_run, update, plain_passwords)
    with _opened(file) as (stream, size):
        try:
            source = Source(stream)
            name = format_ or detect(source)
            counts = run(_import(source, name, options, size))
        except UnreadableFileError as problem:
            raise CommandError(str(problem)) from None
    typer.echo(counts.report(name, dry_run=dry_run))
    if not counts.good:
        raise CommandError("There is no user in it that can be taken over.")
    if counts.bad:
        raise typer.Exit(1)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file and its size, where that is known."""
    if file == "-":
        yield sys.stdin.buffer, None
        return
    try:
        with Path(file).open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as problem:
        raise CommandError(f"{file} cannot be read: {problem.strerror}.") from None


async def _import(source: Source, name: str, options: Options, size: int | None) -> Counts:
    progress = Progress(size)
    async with open_session() as session:
        importer, outcome = Importer(session, options), "failure"
        try:
            await importer.take(READERS[name](source), lambda: progress.show(importer.counts, source.bytes_read))
            outcome = "success"
        except StoreUnavailableError:
            progress.end()
            typer.echo(f"Broken off. {importer.counts.report(name, dry_run=options.dry_run)}", err=True)
            typer.echo("Begin the same import again: it goes on.", err=True)
            raise
        finally:
            if not options.dry_run:
                counts = {key: str(value) for key, value in importer.counts.numbers().items()}
                target = {"format": name, **counts}
                session.audit.record(EventType.USERS_IMPORTED, outcome, Actor(), reason="operator", target=target)
        progress.end()
    return importer.counts


@dataclass
class Importer:
    """Takes rows over, some at a time; what was there already is never counted as bad where it is the same."""

    session: Session
    options: Options
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._users = UserStore(self.session.store)
        self._local = LocalUsers(self._users)
        self._now = int(time.time())
        # A plain password takes a tenth of a second to hash: what is done must be kept now and then.
        self._at_once = _CHANGED_AT_ONCE if self.options.plain_passwords else _AT_ONCE
        self._changing = asyncio.Semaphore(min(_CHANGED_AT_ONCE, self.session.settings.store.max_connections))
        self._shapes: set[str] = set()

    async def take(self, rows: Iterator[Row | BadRow], after_each: Callable[[], None]) -> None:
        """Take over all of them."""
        self._shapes = set(await self._users.decoys())
        try:
            for batch in _batches(rows, self._at_once, self.counts):
                await self._take(batch)
                after_each()
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            self._local.close()

    async def _take(self, batch: list[Row]) -> None:
        rows = []
        for row in batch:
            if row.password is not None and not self.options.plain_passwords:
                self.counts.refuse(row.line, "it has a password in plain text; --plain-passwords takes it")
            else:
                rows.append(row)
        users = await self._users.find_all_by_name([row.username for row in rows])
        async with asyncio.TaskGroup() as group:
            for row, user in zip(rows, users, strict=True):
                if user is not None:
                    group.create_task(self._meet(row, user))
        await self._add([row for row, user in zip(rows, users, strict=True) if user is None])

    async def _add(self, rows: list[Row]) -> None:
        rows = await self._without_taken_subs(rows)
        if not self.options.dry_run:
            rows = await self._store(rows)
        self.counts.created += len(rows)
        self.counts.without_password += sum(row.password is None and row.password_hash is None for row in rows)

    async def _without_taken_subs(self, rows: list[Row]) -> list[Row]:
        others = await self._users.find_all([row.sub for row in rows if row.sub])
        names = {other.sub: other.username for other in others if other}
        free = []
        for row in rows:
            if names.get(row.sub or "", row.username) == row.username:
                free.append(row)
            else:
                self.counts.refuse(row.line, "its sub is that of another user")
        return free

    async def _store(self, rows: list[Row]) -> list[Row]:
        """Store new users; the rows of those whose names nobody took meanwhile."""
        hashes = await asyncio.gather(*(self._hash_of(row) for row in rows))
        users = [self._user(row, password_hash) for row, password_hash in zip(rows, hashes, strict=True)]
        stored = []
        for row, user, is_stored in zip(rows, users, await self._users.add_all(users), strict=True):
            if is_stored:
                record_user(self.session, EventType.USER_CREATED, user, "import")
                stored.append(row)
            else:
                self.counts.refuse(row.line, _NAME_TAKEN)
        return stored

    def _user(self, row: Row, password_hash: str) -> User:
        return User(
            sub=row.sub or new_sub(),
            username=row.username,
            password_hash=password_hash,
            disabled=bool(row.disabled),
            created=self._now if row.created is None else row.created,
        )

    async def _meet(self, row: Row, user: User) -> None:
        other_password = row.password_hash is not None and str(row.password_hash) != user.password_hash
        other_state = row.disabled is not None and row.disabled != user.disabled
        if self.options.update and (other_password or other_state or row.password is not None):
            if not self.options.dry_run:
                async with self._changing:
                    await self._update(row, user, other_password=other_password or row.password is not None)
            self.counts.updated += 1
        elif other_password or other_state:
            self.counts.refuse(row.line, _NAME_TAKEN)
        else:
            self.counts.same += 1

    async def _update(self, row: Row, user: User, *, other_password: bool) -> None:
        if row.disabled is not None and row.disabled != user.disabled:
            user = await self._users.set_disabled(user, disabled=row.disabled)
        if other_password:
            user = await self._users.set_password_hash(user, await self._hash_of(row))
        if row.disabled:
            await end_all(self.session, user, EventType.USER_UPDATED, "disabled")
        else:
            await sessions_of(self.session).delete_all_of_user(user.sub)
            record_user(self.session, EventType.USER_UPDATED, user, "import")

    async def _hash_of(self, row: Row) -> str:
        if row.password is not None:
            return await self._local.hash(row.password)
        if row.password_hash is None:
            return ""
        shape = row.password_hash.shape
        if shape not in self._shapes and len(self._shapes) < _MOST_DECOYS:
            self._shapes.add(shape)
            await self._users.add_decoy(shape, str(row.password_hash.of_nobody()))
        return str(row.password_hash)


def _batches(rows: Iterator[Row | BadRow], size: int, counts: Counts) -> Iterator[list[Row]]:
    """Rows that can be taken over at once: none of a name that another has."""
    batch: list[Row] = []
    taken: set[str] = set()
    for row in rows:
        counts.rows += 1
        if isinstance(row, BadRow):
            counts.refuse(row.line, row.reason)
            continue
        keys = {row.username.casefold(), row.sub or ""} - {""}
        if keys & taken or len(batch) == size:
            yield batch
            batch, taken = [], set()
        batch.append(row)
        taken |= keys
    yield batch
