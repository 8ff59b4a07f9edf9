"""Who is this? Each identity answers: local users, OpenID providers, directories, plugins."""

from keystile_auth.identity.answer import Identity

__all__ = ["Identity"]
