"""`keystile doctor`: what a client of an MCP server would stumble on."""

import typer

from keystile_common.doctor import command


def doctor(context: typer.Context) -> None:
    """Look at any MCP server from outside, as a client does, and tell what a client would stumble on."""
    # All of it is common, for images that do not have this package; so are its options.
    raise typer.Exit(command.main(context.args, "keystile doctor"))
