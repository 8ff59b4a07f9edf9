"""`keystile keys`: the keys that sign access tokens."""

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from keystile_auth.cli.session import CommandError, Session, open_session, run
from keystile_auth.settings import decode_master_key
from keystile_auth.store.signing_keys import Rotation, SigningKeyStore
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.signing_keys import SigningKey, SigningKeys
from keystile_common.audit import Actor, EventType

app = typer.Typer(help="Keys that sign access tokens.", no_args_is_help=True, rich_markup_mode=None)


_HEADINGS = ("KID", "STATE", "CREATED", "NOT AFTER")


class Output(StrEnum):
    """How a list is written."""

    TABLE = "table"
    JSON = "json"


@app.command("list")
def list_keys(
    output: Annotated[Output, typer.Option("--output", "-o", help="How to write it.")] = Output.TABLE,
) -> None:
    """List the published keys and their states. `not after` is when a key is due, or no longer published."""

    async def work() -> list[SigningKey]:
        async with open_session() as session:
            return (await _load(session)).all()

    rows = [
        {"kid": key.kid, "state": key.state, "created": _time(key.created), "not_after": _time(key.not_after)}
        for key in run(work())
    ]
    if output is Output.JSON:
        typer.echo(json.dumps(rows, indent=2))
        return
    for kid, state, created, not_after in [_HEADINGS, *(tuple(row.values()) for row in rows)]:
        typer.echo(f"{kid:<43}  {state:<7}  {created:<20}  {not_after or '-'}")


@app.command("rotate")
def rotate(
    force: Annotated[bool, typer.Option("--force", help="Whatever the current key's age.")] = False,
) -> None:
    """Let the next key sign, if the current one is old enough; safe to run at any time, and by several at once."""

    async def work() -> Rotation:
        async with open_session() as session:
            keys = await _load(session)
            rotation = await keys.rotate(access_token_seconds=session.settings.tokens.access_token_seconds, force=force)
            if rotation.word == "rotated":
                target = {"kid": rotation.kid, "retired": rotation.retired_kid}
                reason = "forced" if force else "due"
                session.audit.record(EventType.KEY_ROTATED, "success", Actor(), reason=reason, target=target)
            return rotation

    typer.echo(_sentence(run(work())))


async def _load(session: Session) -> SigningKeys:
    settings = session.settings
    keys = SigningKeys(
        SigningKeyStore(session.store),
        MasterKey(decode_master_key(settings.master_key)),
        settings.signing_keys.rotate_after_seconds,
        time.time,
    )
    created = await keys.load()
    if created:
        session.audit.record(EventType.KEY_CREATED, "success", Actor(), target={"kid": created})
    return keys


def _sentence(rotation: Rotation) -> str:
    match rotation.word:
        case "rotated":
            return f"{rotation.kid} signs now; {rotation.retired_kid} stays published until its last token has expired."
        case "early":
            due = _time(int(time.time()) + rotation.seconds)
            return f"Nothing to do: the current key is due at {due}. With --force it is rotated now."
        case "unpublished":
            raise CommandError(
                "The next key has not been published for long enough that everybody knows it; "
                f"try again in {rotation.seconds} seconds."
            )
        case word:
            raise CommandError(f"The keys in the store changed meanwhile ({word}); try again.")


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
