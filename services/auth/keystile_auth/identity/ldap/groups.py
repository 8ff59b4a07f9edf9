"""The groups of a person, and the names that they have here."""

from collections.abc import Iterable, Iterator

import structlog
from ldap import DECODING_ERROR
from ldap.dn import str2dn

from keystile_auth.identity.answer import MAX_GROUPS
from keystile_auth.identity.ldap import filters
from keystile_auth.identity.ldap.connection import Connection, Deadline, TooManyError
from keystile_auth.identity.ldap.entry import Entry
from keystile_auth.identity.ldap.settings import LdapSettings

_MEMBER_OF = "memberOf"
_MAX_DEPTH = 16
_AT_ONCE = 50
_NO_ATTRIBUTES = "1.1"

_log = structlog.stdlib.get_logger(__name__)


class Groups:
    """Finds them.

    Args:
        title: of the identity, for the log.
        settings: of the identity.
    """

    def __init__(self, title: str, settings: LdapSettings) -> None:
        self._title = title
        self._settings = settings
        self._base = settings.group_base or ""
        self._by_dn = settings.group_name.lower() == "dn"

    @property
    def attributes(self) -> tuple[str, ...]:
        """What has to be read of a person's own entry."""
        return () if self._base else (_MEMBER_OF,)

    def of(self, person: Entry, connection: Connection, deadline: Deadline) -> tuple[str, ...]:
        """The names of a person's groups.

        Args:
            person: with `attributes`, and the attribute that people are called by.
            connection: bound with our account.
            deadline: for the answer.

        Raises:
            AwayError, TooManyError, NoSuchBaseError, BadFilterError: as `Connection.search`.
        """
        if not self._base:
            return person.texts(_MEMBER_OF)
        found = self._found(person, connection, deadline)
        if self._by_dn:
            return tuple(each.dn for each in found)
        return self._unique(found, connection, deadline)

    def _found(self, person: Entry, connection: Connection, deadline: Deadline) -> list[Entry]:
        """The groups of a person; with `nested_groups` those that these are in too, each once."""
        template, username = self._settings.groups_filter, person.text(self._settings.username)
        attributes = (_NO_ATTRIBUTES,) if self._by_dn else (self._settings.group_name,)
        found: dict[str, Entry] = {}
        asked = [person.dn]
        for _ in range(_MAX_DEPTH if self._settings.walks_groups else 1):
            fresh: dict[str, Entry] = {}
            for dns in _pieces(asked):
                filter_ = filters.of_groups(template, dns, username)
                for group in connection.search(self._base, filter_, attributes, deadline, most=MAX_GROUPS):
                    fresh.setdefault(group.dn.lower(), group)
            asked = [group.dn for dn, group in fresh.items() if dn not in found]
            found = {**fresh, **found}
            if not asked or len(found) >= MAX_GROUPS:
                break
        return list(found.values())

    def _unique(self, found: list[Entry], connection: Connection, deadline: Deadline) -> tuple[str, ...]:
        """The names of groups, without those that another group has too: it may be anybody's."""
        named = {group.dn.lower(): name for group in found if (name := self._name(group))}
        owners: dict[str, set[str]] = {}
        for names in _pieces(sorted(set(named.values()))):
            owners |= self._owners(names, connection, deadline)
        kept = []
        for dn, name in named.items():
            if owners.get(name.casefold()) == {dn}:
                kept.append(name)
            else:
                _log.warning("several groups have one name, so it counts for none", identity=self._title, group=name)
        return tuple(kept)

    def _owners(self, names: list[str], connection: Connection, deadline: Deadline) -> dict[str, set[str]]:
        """Whose each name is, by DN; one that too many have is left out."""
        attribute = self._settings.group_name
        try:
            filter_ = filters.of_values(attribute, names)
            found = connection.search(self._base, filter_, (attribute,), deadline, most=MAX_GROUPS)
        except TooManyError:
            alone = [[name] for name in names] if len(names) > 1 else []
            return {key: dns for each in alone for key, dns in self._owners(each, connection, deadline).items()}
        owners: dict[str, set[str]] = {}
        for each in found:
            for text in each.texts(attribute):
                owners.setdefault(text.casefold(), set()).add(each.dn.lower())
        return owners

    def _name(self, group: Entry) -> str:
        """A group's only name; of several the one that is in its DN."""
        attribute = self._settings.group_name
        if len(group.values(attribute)) == 1:
            return group.text(attribute)
        try:
            first = str2dn(group.dn)[0]
        except (DECODING_ERROR, IndexError):
            return ""
        return next((value for key, value, _ in first if key.lower() == attribute.lower()), "")


def _pieces(values: Iterable[str]) -> Iterator[list[str]]:
    values = list(values)
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
