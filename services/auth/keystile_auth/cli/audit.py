"""`keystile audit`: the audit log."""

from pathlib import Path

import typer

from keystile_auth.cli.session import CommandError
from keystile_common.audit import verify as verify_chain

app = typer.Typer(help="The audit log.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def audit() -> None:
    """The audit log."""


@app.command("verify")
def verify(file: Path) -> None:
    """Check that no event was changed, added, or taken out from before another. Exit code 1 when one was.

    What was cut off at the end does not show: compare the last sequence number with what your log store has.
    """
    try:
        with file.open(errors="replace") as lines:
            seen, breaks = verify_chain(lines)
    except OSError as problem:
        raise CommandError(f"Cannot read {file}: {problem.strerror}.") from None
    for each in breaks:
        typer.echo(f"{file}:{each.line}: {each.problem}")
    if seen == 0:
        raise CommandError(f"There is no audit event in {file}.")
    typer.echo(f"{seen} events, {len(breaks)} breaks in the chain.")
    raise typer.Exit(1 if breaks else 0)
