"""What the `keystile` command is made of: one file a noun."""

from typing import Annotated

import typer

from keystile_auth import __version__
from keystile_auth.cli import audit, clients, dev, doctor, keys, serve, users

app = typer.Typer(
    name="keystile",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("dev")(dev.dev)
app.command("serve")(serve.serve)
app.command(
    "doctor", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)(doctor.doctor)
app.add_typer(users.app, name="users")
app.add_typer(clients.app, name="clients")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"keystile {__version__}")
        raise typer.Exit


@app.callback()
def keystile(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """OAuth 2.1 for MCP servers."""
