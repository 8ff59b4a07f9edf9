"""An identity of your own: people who sign in with the number of their badge and its PIN."""

import hmac

from keystile_auth.identity import Identity

_BADGES = {"4711": ("2580", "Ada Lovelace", ("engineering",))}


class Badges:
    """Knows every badge. A real one would ask a directory, with a timeout."""

    async def authenticate(self, username: str, password: str) -> Identity | None:
        """Who holds this badge, or None when the badge is unknown or the PIN is wrong."""
        pin, name, groups = _BADGES.get(username, ("", "", ()))
        is_right = hmac.compare_digest(pin.encode(), password.encode()) and bool(pin)
        return Identity(subject=username, username=name, groups=groups) if is_right else None
