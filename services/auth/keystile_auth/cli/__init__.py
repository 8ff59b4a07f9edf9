"""The `keystile` command: one file a noun."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from keystile_auth import __version__
from keystile_auth.cli import audit, clients, dev, doctor, keys, serve, users
from keystile_auth.cli.session import CommandError
from keystile_auth.identity.local import InvalidUserError
from keystile_auth.store.embedded import EmbeddedStoreError
from keystile_auth.tokens.master_key import WrongMasterKeyError
from keystile_common.server import ListenError
from keystile_common.settings import SettingsError
from keystile_common.store import StoreUnavailableError, StoreUnsuitableError

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


def main() -> None:
    """Run the command."""
    with problems_as_sentences():
        app()


@contextlib.contextmanager
def problems_as_sentences() -> Iterator[None]:
    """Let what a person can mend end in a sentence and exit code 2, not in a traceback."""
    try:
        yield
    except StoreUnavailableError:
        problem = "The store does not answer. Is it running, and is store.url right?"
    except WrongMasterKeyError:
        problem = "master_key is not the one that the keys in the store were encrypted with."
    except SettingsError as error:
        problem = f"These settings cannot be used:\n{error}"
    except (CommandError, InvalidUserError, EmbeddedStoreError, ListenError, StoreUnsuitableError) as error:
        problem = str(error)
    else:
        return
    typer.echo(problem, err=True)
    sys.exit(2)
