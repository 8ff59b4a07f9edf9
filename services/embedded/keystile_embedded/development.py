"""Without settings: for this machine alone, in a folder of its own, with a user to sign in as."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from keystile_auth.cli.banner import banner
from keystile_auth.cli.demo import DEMO_USER, HOST, ensure_demo_user, ensure_master_key
from keystile_auth.cli.folder import write_settings
from keystile_auth.cli.session import DATA_FOLDER, CommandError
from keystile_common.settings import is_loopback_host, load
from keystile_embedded.settings import EmbeddedListen, EmbeddedSettings, in_folder


def folder_of(environ: Mapping[str, str]) -> Path:
    """The folder for everything that is kept: KEYSTILE_DATA_DIR, or ./.keystile."""
    return Path(environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER)).absolute()


def prepare(folder: Path, environ: Mapping[str, str]) -> EmbeddedSettings:
    """Write the settings into `folder`, and the master key where it is missing; what `environ` sets goes over them.

    Raises:
        CommandError: it would listen on other than loopback addresses.
        SettingsError: a variable is no setting, or cannot be right.
    """
    port = environ.get("KEYSTILE_LISTEN__PORT", EmbeddedListen().port)
    ensure_master_key(folder, "embedded")
    (folder / "logs").mkdir(mode=0o700, exist_ok=True)
    write_settings(
        folder,
        embedded={
            "issuer": f"http://{HOST}:{port}",
            "listen": {"host": HOST},
            "metrics": {"host": HOST},
            "audit": {"stdout": False, "file": str(folder / "audit.log")},
        },
    )
    settings = load(EmbeddedSettings, in_folder(folder, {**environ, "KEYSTILE_DATA_DIR": str(folder)}))
    if not (is_loopback_host(settings.listen.host) and is_loopback_host(settings.metrics.host)):
        raise CommandError(
            "Without settings this serves the machine it runs on alone. To listen on other addresses name a settings "
            "file in KEYSTILE_CONFIG, or set KEYSTILE_ISSUER to the https URL that clients see."
        )
    return settings


def welcome(settings: EmbeddedSettings, folder: Path) -> str:
    """What a newcomer is told; the demo user is there from now on."""
    password = asyncio.run(ensure_demo_user(settings, folder))
    return banner(settings.issuer, settings.own_resource, DEMO_USER, password, folder, "at once")


def open_log(folder: Path) -> int:
    """A descriptor of the log, which would drown what is printed."""
    return os.open(folder / "logs" / "embedded.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
