"""People whom a front proxy has signed in, and names in headers of its requests.

A header is worth what its sender is: it counts only on a connection whose client showed a certificate of
an authority that we trust, with a name that the settings list.
"""

from collections.abc import Callable, Iterable

from keystile_auth.identity.answer import MAX_GROUP_CHARACTERS, MAX_GROUPS, Identity, SignInRefusedError
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.client_certificate import ClientCertificate

_NOT_THE_PROXY = "the request did not come from its proxy"
_NOT_ONE_PERSON = "what its proxy says names nobody"


class HeaderIdentity:
    """Reads who a request is of.

    Args:
        name: in the settings.
        settings: of this identity, kind `header`.
        clock: Unix seconds.
    """

    def __init__(self, name: str, settings: IdentitySettings, clock: Callable[[], float]) -> None:
        self.name = name
        self.title = settings.title or name
        self._clock = clock
        self._certificate_names = frozenset(
            ("URI" if "://" in each else "DNS", each) for each in settings.certificate_names
        )
        self._user = _as_sent(settings.user_header)
        self._names = [_as_sent(each) for each in (settings.name_header, settings.email_header) if each]
        self._groups = _as_sent(settings.groups_header) if settings.groups_header else None
        self._separator = settings.groups_separator

    def person(self, headers: Iterable[tuple[bytes, bytes]], certificate: ClientCertificate | None) -> Identity | None:
        """Who a request is of, or None where it names nobody.

        Args:
            headers: of the request, as they came, their names in lower case.
            certificate: what the client of its connection showed.

        Raises:
            SignInRefusedError: it names somebody, and is not of the proxy; or what it says is not one person's name.
        """
        headers = list(headers)
        if not any(name == self._user for name, _ in headers):
            return None
        self._check(certificate)
        subject = _value(headers, self._user)
        if not subject:
            raise SignInRefusedError(f"{self._user.decode()}: empty", _NOT_ONE_PERSON)
        names = [_value(headers, name) for name in self._names]
        groups = _value(headers, self._groups) if self._groups else None
        try:
            return Identity(subject, next(filter(None, names), ""), self._split(groups or ""))
        except ValueError:
            raise SignInRefusedError(f"{self._user.decode()}: too long", _NOT_ONE_PERSON) from None

    def _check(self, certificate: ClientCertificate | None) -> None:
        if certificate is None:
            raise SignInRefusedError("no client certificate", _NOT_THE_PROXY)
        if certificate.not_after <= self._clock():
            raise SignInRefusedError("client certificate expired", _NOT_THE_PROXY)
        if not certificate.names & self._certificate_names:
            raise SignInRefusedError("client certificate of another name", _NOT_THE_PROXY)

    def _split(self, groups: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(filter(None, (each.strip() for each in groups.split(self._separator)))))
        # A part of them could be other rights than all of them.
        if len(found) > MAX_GROUPS or any(len(each) > MAX_GROUP_CHARACTERS for each in found):
            raise SignInRefusedError("groups: too many or too long", _NOT_ONE_PERSON)
        return found


def _value(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header that comes once or not at all.

    Raises:
        SignInRefusedError: it comes more than once, or has what no name has.
    """
    values = [value for each, value in headers if each == name]
    if not values:
        return None
    if len(values) > 1:
        raise SignInRefusedError(f"{name.decode()}: more than one", _NOT_ONE_PERSON)
    try:
        text = values[0].strip(b" \t").decode()
    except UnicodeDecodeError:
        raise SignInRefusedError(f"{name.decode()}: not UTF-8", _NOT_ONE_PERSON) from None
    if not text.isprintable():
        raise SignInRefusedError(f"{name.decode()}: invisible characters", _NOT_ONE_PERSON)
    return text


def _as_sent(name: str) -> bytes:
    return name.lower().encode()
