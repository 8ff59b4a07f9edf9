"""Users as Keystile writes them: JSON, one a line; `json_lines` reads it again."""

import json
from typing import Any

from keystile_auth.store.users import User


def line_of(user: User, *, with_password_hash: bool) -> str:
    """One user as a line, without its end."""
    document: dict[str, Any] = {
        "username": user.username,
        "sub": user.sub,
        "disabled": user.disabled,
        "created": user.created,
    }
    if with_password_hash and user.password_hash:
        document["password_hash"] = user.password_hash
    return json.dumps(document, separators=(",", ":"))
