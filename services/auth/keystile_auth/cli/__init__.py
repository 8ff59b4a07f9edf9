"""The `keystile` command."""

import contextlib
import sys
from collections.abc import Iterator

from keystile_auth.cli.session import CommandError
from keystile_auth.identity.local import InvalidUserError
from keystile_auth.store.embedded import EmbeddedStoreError
from keystile_auth.tokens.master_key import WrongMasterKeyError
from keystile_common.server import ListenError
from keystile_common.settings import SettingsError
from keystile_common.store import StoreUnavailableError, StoreUndurableError, StoreUnsuitableError


def main() -> None:
    """Run the command."""
    with problems_as_sentences():
        if sys.argv[1:] == ["serve"]:
            # The server would keep in memory all that the other commands, and the reading of their options, import.
            from keystile_auth.cli.serve import serve  # noqa: PLC0415

            serve()
        else:
            from keystile_auth.cli.commands import app  # noqa: PLC0415

            app()


@contextlib.contextmanager
def problems_as_sentences() -> Iterator[None]:
    """Let what a person can mend end in a sentence and exit code 2, not in a traceback."""
    try:
        yield
    except StoreUndurableError as error:
        problem = f"What was changed may still be lost ({error.problem}): run the same command again."
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
    print(problem, file=sys.stderr)
    sys.exit(2)
