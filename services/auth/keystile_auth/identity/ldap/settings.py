"""What an operator says of a directory that is asked by LDAP."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from keystile_common.settings import Section, is_loopback_host

Directory = Literal["ldap", "active_directory"]
# Active Directory's rule for "a member, or a member of a member" ([MS-ADTS] 3.1.1.3.4.4.3).
_IN_CHAIN = "1.2.840.113556.1.4.1941"
_USER_FILTERS = {
    "ldap": "(&(objectClass=inetOrgPerson)(uid={username}))",
    "active_directory": "(&(objectCategory=person)(objectClass=user)(sAMAccountName={username}))",
}
_GROUP_FILTERS = {
    "ldap": "(|(member={dn})(uniqueMember={dn}))",
    "active_directory": "(&(objectClass=group)(member={dn}))",
}
_USERNAMES = {"ldap": "uid", "active_directory": "sAMAccountName"}
_SUBJECTS = {"ldap": "entryUUID", "active_directory": "objectGUID"}
_GROUP_NAMES = {"ldap": "cn", "active_directory": "sAMAccountName"}
# `{username}` is a whole value: at a later check, which knows the subject alone, `*` takes its place.
_USERNAME = re.compile(r"=\{username\}\)")
_EXTENSIBLE = re.compile(r"[:~<>]=\{username\}")


def _ldap_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"ldap", "ldaps"} or not url.hostname or url.netloc != url.netloc.lower():
        raise ValueError("must be ldaps://host, or ldap://host with start_tls, in lower case")
    if url.path or url.query or url.fragment or url.username or url.password or " " in value:
        raise ValueError("must be a host and perhaps a port, nothing more")
    try:
        _ = url.port
    except ValueError:
        raise ValueError("must have a port from 1 to 65535") from None
    return value


LdapUrl = Annotated[str, AfterValidator(_ldap_url)]
Attribute = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]
"""The name of an attribute."""


class LdapSettings(Section):
    """What `IdentitySettings` has for the kind `ldap`; what is None is the directory's own."""

    directory: Directory = "ldap"
    urls: list[LdapUrl] = []
    start_tls: bool = False
    ca_file: Path | None = None
    bind_dn: str | None = Field(default=None, min_length=1)
    bind_password: SecretStr | None = Field(default=None, min_length=1)
    user_base: str | None = Field(default=None, min_length=1)
    user_filter: str | None = None
    username_attribute: Attribute | None = None
    subject_attribute: Attribute | None = None
    group_base: str | None = Field(default=None, min_length=1)
    group_filter: str | None = None
    group_name_attribute: Attribute | None = None
    nested_groups: bool = False
    connect_timeout_seconds: float = Field(default=3, gt=0, le=10)
    operation_timeout_seconds: float = Field(default=5, gt=0, le=10)
    pool_size: int = Field(default=4, ge=1, le=32)

    def check_ldap(self) -> None:
        """Raise `ValueError` for what cannot be."""
        for name in ("urls", "bind_dn", "bind_password", "user_base"):
            if not getattr(self, name):
                raise ValueError(f"{name} is missing")
        for url in map(urlsplit, self.urls):
            if url.scheme == "ldaps" and self.start_tls:
                raise ValueError("start_tls is for ldap:// URLs; ldaps:// has TLS from the beginning")
            if url.scheme == "ldap" and not self.start_tls and not is_loopback_host(url.hostname):
                raise ValueError("urls: passwords would go in the clear; write ldaps://, or set start_tls")
        self._check_filters()

    def _check_filters(self) -> None:
        users = self.users_filter
        whole = len(_USERNAME.findall(users)) - len(_EXTENSIBLE.findall(users))
        if not _is_filter(users, "username") or whole != users.count("{username}") or not whole:
            raise ValueError("user_filter must be a filter in brackets, with {username} as a whole value in it")
        groups = self.groups_filter
        if not _is_filter(groups, "username|dn") or not re.search(r"\{(username|dn)\}", groups):
            raise ValueError("group_filter must be a filter in brackets, with {dn} or {username} in it")
        if self.group_base is None:
            for name in ("group_filter", "group_name_attribute", "nested_groups"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs group_base; without it, memberOf is read as it is")
        if self.nested_groups and ("{dn}" not in groups or "{username}" in groups):
            raise ValueError("group_filter must ask for {dn}, and not for {username}, with nested_groups")

    @property
    def users_filter(self) -> str:
        """The filter that finds a person, with `{username}`."""
        return self.user_filter or _USER_FILTERS[self.directory]

    @property
    def groups_filter(self) -> str:
        """The filter that finds groups, with `{dn}` or `{username}`."""
        if self.group_filter is None and self.nested_groups and self.directory == "active_directory":
            return f"(&(objectClass=group)(member:{_IN_CHAIN}:={{dn}}))"
        return self.group_filter or _GROUP_FILTERS[self.directory]

    @property
    def walks_groups(self) -> bool:
        """Whether groups of groups have to be searched for, step by step."""
        return self.nested_groups and _IN_CHAIN not in self.groups_filter

    @property
    def username(self) -> str:
        """The attribute that people are called by."""
        return self.username_attribute or _USERNAMES[self.directory]

    @property
    def subject(self) -> str:
        """The attribute that names a person for ever."""
        return self.subject_attribute or _SUBJECTS[self.directory]

    @property
    def group_name(self) -> str:
        """The attribute that names a group; `dn` for its DN."""
        if self.group_base is None:
            return "dn"
        return self.group_name_attribute or _GROUP_NAMES[self.directory]


def _is_filter(text: str, places: str) -> bool:
    """Whether a filter's brackets agree, so that it is one, and nothing stands open for what is put into it."""
    bare = re.sub(rf"\{{(?:{places})\}}", "", text)
    depth = 0
    for position, character in enumerate(bare):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or (depth == 0 and position < len(bare) - 1):
            return False
    return text.startswith("(") and depth == 0 and not re.search(r"[{}\x00]", bare)
