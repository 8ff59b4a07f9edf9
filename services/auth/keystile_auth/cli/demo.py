"""What both development servers begin with: a master key, and a user to sign in as."""

import os
import secrets
import time
from base64 import b64encode
from pathlib import Path

from keystile_auth.cli.folder import secret
from keystile_auth.cli.session import open_session
from keystile_auth.cli.user_sessions import record_user
from keystile_auth.identity.local import LocalUsers
from keystile_auth.settings import MASTER_KEY_BYTES, AuthSettings
from keystile_auth.store.users import UserStore
from keystile_common.audit import EventType

HOST = "127.0.0.1"
DEMO_USER = "demo"


def ensure_master_key(folder: Path, *services: str) -> None:
    """Put the master key, made where there is none, among the secrets of each of `services`."""
    fresh = b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode()
    # One key for one store, whatever topology serves it today.
    kept = secret(folder / "secrets" / "auth" / "master_key", fresh)
    for service in services:
        secret(folder / "secrets" / service / "master_key", kept)


async def ensure_demo_user(settings: AuthSettings, folder: Path) -> str:
    """Create the demo user, or bring its password in line with KEYSTILE_DEMO_PASSWORD; answers the password."""
    chosen = os.environ.get("KEYSTILE_DEMO_PASSWORD")
    path = folder / "secrets" / "demo_password"
    password = chosen or secret(path, "-".join(secrets.token_hex(3) for _ in range(3)))
    async with open_session(settings) as session:
        users = UserStore(session.store)
        local = LocalUsers(users)
        user = await users.find_by_name(DEMO_USER)
        if user is None:
            user = await local.create(DEMO_USER, password, int(time.time()))
            record_user(session, EventType.USER_CREATED, user, "keystile dev")
        elif chosen is not None and await local.verify(DEMO_USER, chosen) is None:
            await local.set_password(user, chosen)
        local.close()
    return password
