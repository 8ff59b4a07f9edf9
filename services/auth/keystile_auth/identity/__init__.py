"""Who is this? Each identity answers: local users, OpenID providers, plugins."""

from keystile_auth.identity.answer import Identity

__all__ = ["Identity"]
