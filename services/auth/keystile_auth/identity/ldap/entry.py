"""An entry of a directory, as far as it was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

_GUID = "objectguid"
_GUID_BYTES = 16


class UnreadableEntryError(Exception):
    """An entry that is not as the settings take it to be; `str()` says which attribute."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.

    Args:
        dn: its distinguished name.
        attributes: their values, by lower-case name.
    """

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]

    def values(self, name: str) -> tuple[bytes, ...]:
        """All values of an attribute; Active Directory gives long ones in pieces, of which this is the first."""
        name = name.lower()
        found = self.attributes.get(name, ())
        return found or next((v for key, v in self.attributes.items() if key.startswith(f"{name};range=0-")), ())

    def texts(self, name: str) -> tuple[str, ...]:
        """Those values that are text."""
        decoded = (value.decode("utf-8", errors="replace") for value in self.values(name))
        return tuple(text for text in decoded if "\N{REPLACEMENT CHARACTER}" not in text)

    def text(self, name: str) -> str:
        """The first of them, or nothing."""
        return next(iter(self.texts(name)), "")

    def number(self, name: str) -> int | None:
        """An attribute that is a number; None where it is not there.

        Raises:
            UnreadableEntryError: it is something else.
        """
        values = self.values(name)
        if not values:
            return None
        try:
            return int(values[0][:20])
        except ValueError:
            raise UnreadableEntryError(f"{name} is no number") from None

    def subject(self, name: str) -> str:
        """What names the person for ever: the attribute's only value.

        Raises:
            UnreadableEntryError: it has none, several, or one that is no text.
        """
        values = self.values(name)
        if len(values) != 1:
            raise UnreadableEntryError(f"subject_attribute: {name} has {len(values)} values where one is needed")
        if name.lower() == _GUID:
            if len(values[0]) != _GUID_BYTES:
                raise UnreadableEntryError(f"subject_attribute: {name} has not {_GUID_BYTES} bytes")
            return str(UUID(bytes_le=values[0]))
        text = self.text(name)
        if not text:
            raise UnreadableEntryError(f"subject_attribute: {name} is no text")
        return text


def subject_value(name: str, subject: str) -> bytes | None:
    """The value that `Entry.subject` was made of; None where it can be none."""
    if name.lower() != _GUID:
        return subject.encode()
    try:
        return UUID(subject).bytes_le
    except ValueError:
        return None
