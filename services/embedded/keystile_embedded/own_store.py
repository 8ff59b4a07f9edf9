"""The store of this process's own, and what happens when it stops by itself."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from keystile_auth.cli.folder import owned
from keystile_auth.store import embedded
from keystile_auth.store.embedded import EmbeddedStoreError
from keystile_embedded.settings import EmbeddedSettings


@contextmanager
def with_store(settings: EmbeddedSettings, *, is_owned: bool = False) -> Iterator[EmbeddedSettings]:
    """Run a store where `settings` name none; gives the settings with its address.

    A store that stops by itself takes the process with it, in good order: whoever started that starts it anew,
    and the store with it.

    Args:
        settings: as loaded.
        is_owned: whether the data folder is this process's alone already.

    Raises:
        CommandError: the data folder cannot be had.
        EmbeddedStoreError: the store does not start, or stopped by itself.
    """
    if not settings.has_own_store:
        yield settings
        return
    with (
        nullcontext() if is_owned else owned(settings.data_dir.absolute()),
        embedded.start(settings.store_folder, settings.appendfsync) as store,
    ):
        ending, died = threading.Event(), threading.Event()

        def watch() -> None:
            store.process.wait()
            if not ending.is_set():
                died.set()
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield settings.with_store_at(store.url)
        finally:
            ending.set()
            if died.is_set():
                raise EmbeddedStoreError(
                    f"The store stopped by itself; the reason may stand at the end of {store.log}"
                ) from None
