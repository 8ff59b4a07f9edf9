"""LDAP and Active Directory: search with an account of our own, then bind as the person.

Others import this module and `settings` alone: the rest needs python-ldap, which is not installed everywhere.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

from keystile_common.settings import SettingsError

if TYPE_CHECKING:
    from keystile_auth.identity.ldap.identity import LdapIdentity
    from keystile_auth.identity.settings import IdentitySettings


def directory(name: str, settings: "IdentitySettings") -> "LdapIdentity":
    """A directory that people sign in with.

    Args:
        name: in the settings.
        settings: of this identity, kind `ldap`.

    Raises:
        SettingsError: python-ldap is not there, or certificate authorities are not.
    """
    # What a machine's ldap.conf, or a variable, says of certificates must not count here.
    os.environ.setdefault("LDAPNOINIT", "1")
    try:
        module = import_module("keystile_auth.identity.ldap.identity")
    except ImportError:
        raise SettingsError(
            f"identity.{name}: the kind ldap needs the package python-ldap: pip install 'keystile-auth[ldap]', which "
            "needs a C compiler and the headers of libldap and libsasl2 (Debian: gcc libldap-dev libsasl2-dev)"
        ) from None
    return cast("LdapIdentity", module.LdapIdentity(name, settings))
