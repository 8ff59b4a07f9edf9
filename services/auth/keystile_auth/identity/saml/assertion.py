"""What a response and its assertion must say, for the sign-in that waits for them (SAML profiles, section 4.1.4)."""

from dataclasses import dataclass

from keystile_auth.identity.answer import SignInRefusedError
from keystile_auth.identity.saml.document import PROTOCOL, SAML, Document, Element
from keystile_auth.identity.saml.times import seconds_of

_BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
_ENTITY = "urn:oasis:names:tc:SAML:2.0:nameid-format:entity"
_UNSPECIFIED = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
_STATUS = "urn:oasis:names:tc:SAML:2.0:status:"
_STATUSES = {"AuthnFailed", "NoPassive", "RequestDenied", "InvalidNameIDPolicy", "RequestUnsupported", "Requester",
             "Responder", "NoAuthnContext", "UnknownPrincipal"}  # fmt: skip
_CONDITIONS = {f"{SAML} AudienceRestriction", f"{SAML} OneTimeUse", f"{SAML} ProxyRestriction"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What binds an answer to our request.

    Args:
        issuer: the entity id of the identity provider.
        entity_id: ours.
        recipient: the URL that answers are posted to.
        request: the ID of our request.
        now: Unix seconds.
        leeway: seconds that its clock and ours may differ.
    """

    issuer: str
    entity_id: str
    recipient: str
    request: str
    now: float
    leeway: int


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an assertion is about.

    Args:
        assertion: its ID.
        expires: Unix seconds from which on it is not taken any more.
        until: Unix seconds at which the session there ends, or None.
        name: the NameID, or an empty text.
        name_format: of the NameID, a URI.
        attributes: each name and its values.
    """

    assertion: str
    expires: float
    until: float | None
    name: str
    name_format: str
    attributes: dict[str, list[str]]


def check_response(response: Element, expected: Expected) -> None:
    """Check what stands around the assertion. It may be unsigned: nothing of it is believed, it can only refuse.

    Raises:
        SignInRefusedError: it is not the answer to our request, or says that nobody signed in.
    """
    if response.name != f"{PROTOCOL} Response":
        raise _refused("not a response", "sent something that is no answer")
    if response.attributes.get("Version") != "2.0":
        raise _refused("version", "speaks another version of SAML")
    if response.attributes.get("Destination") != expected.recipient:
        raise _refused("destination", "sent an answer that is for another place")
    if response.attributes.get("InResponseTo") != expected.request:
        raise _refused("in response to", "sent an answer to another request")
    issuers = response.having(SAML, "Issuer")
    if len(issuers) > 1 or any(each.text.strip() != expected.issuer for each in issuers):
        raise _refused("issuer", "sent an answer that is not its own")
    _check_status(response)


def read_assertion(document: Document, expected: Expected) -> Subject:
    """Read an assertion, alone in its document, whose signature holds.

    Raises:
        SignInRefusedError: it is not for us, not now, or not an answer to our request.
    """
    assertion = document.root
    if assertion.attributes.get("Version") != "2.0":
        raise _refused("version", "speaks another version of SAML")
    issuer = _one(assertion, "Issuer")
    if issuer.text.strip() != expected.issuer or issuer.attributes.get("Format", _ENTITY) != _ENTITY:
        raise _refused("issuer", "sent an answer that is not its own")
    ends = [_check_conditions(_one(assertion, "Conditions"), expected)]
    subject = _one(assertion, "Subject")
    ends.append(_confirmed(subject, expected))
    name, name_format = _name(subject)
    return Subject(
        assertion=assertion.attributes["ID"],
        expires=max(ends) + expected.leeway,
        until=_session_end(assertion, expected),
        name=name,
        name_format=name_format,
        attributes=_attributes(assertion),
    )


def _check_status(response: Element) -> None:
    codes = [code for status in response.having(PROTOCOL, "Status") for code in status.having(PROTOCOL, "StatusCode")]
    if len(codes) != 1:
        raise _refused("status", "sent an answer that is not complete")
    if codes[0].attributes.get("Value") == f"{_STATUS}Success":
        return
    inner = codes[0].having(PROTOCOL, "StatusCode")
    # Its own words could say anything to anybody: only codes that are known are shown.
    value = (inner or codes)[0].attributes.get("Value", "").removeprefix(_STATUS)
    shown = value if value in _STATUSES else "an error"
    raise _refused(f"answered {shown}", f"answered {shown}")


def _check_conditions(conditions: Element, expected: Expected) -> float:
    if not _CONDITIONS.issuperset(each.name for each in conditions.children):
        raise _refused("condition", "set a condition that is not known here")
    restrictions = conditions.having(SAML, "AudienceRestriction")
    for restriction in restrictions:
        if expected.entity_id not in [each.text.strip() for each in restriction.having(SAML, "Audience")]:
            raise _refused("audience", "vouches for somebody to another application")
    if not restrictions:
        raise _refused("audience", "does not say which application it vouches to")
    return _check_times(conditions, expected)


def _check_times(element: Element, expected: Expected) -> float:
    """Check both bounds; answers the later one, or now where it has none."""
    begins, ends = _time(element, "NotBefore"), _time(element, "NotOnOrAfter")
    if begins is not None and begins > expected.now + expected.leeway:
        raise _refused("not yet valid", "sent an answer that holds only later; are both clocks right?")
    if ends is not None and ends <= expected.now - expected.leeway:
        raise _refused("expired", "sent an answer that holds no longer; are both clocks right?")
    return expected.now if ends is None else ends


def _confirmed(subject: Element, expected: Expected) -> float:
    """When the confirmation ends that lets the bearer come with this assertion."""
    bearers = [
        data
        for confirmation in subject.having(SAML, "SubjectConfirmation")
        if confirmation.attributes.get("Method") == _BEARER
        for data in confirmation.having(SAML, "SubjectConfirmationData")
    ]
    if len(bearers) != 1:
        raise _refused("subject confirmation", "sent an answer that is not for a browser")
    (data,) = bearers
    if data.attributes.get("Recipient") != expected.recipient:
        raise _refused("recipient", "sent an answer that is for another place")
    if data.attributes.get("InResponseTo") != expected.request:
        raise _refused("in response to", "sent an answer to another request")
    if "NotBefore" in data.attributes or "NotOnOrAfter" not in data.attributes:
        raise _refused("subject confirmation", "does not say until when its answer holds")
    return _check_times(data, expected)


def _name(subject: Element) -> tuple[str, str]:
    if subject.having(SAML, "EncryptedID") or subject.having(SAML, "BaseID"):
        raise _refused("subject", "names people in a way that is not known here")
    names = subject.having(SAML, "NameID")
    if len(names) > 1 or any(each.children for each in names):
        raise _refused("subject", "did not say who this is")
    if not names:
        return "", _UNSPECIFIED
    return names[0].text, names[0].attributes.get("Format", _UNSPECIFIED)


def _session_end(assertion: Element, expected: Expected) -> float | None:
    statements = assertion.having(SAML, "AuthnStatement")
    if not statements:
        raise _refused("no authentication", "does not say that anybody signed in")
    ends = [end for each in statements if (end := _time(each, "SessionNotOnOrAfter")) is not None]
    if not ends:
        return None
    if min(ends) <= expected.now:
        raise _refused("session over", "says that the session there is over")
    return min(ends)


def _attributes(assertion: Element) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for statement in assertion.having(SAML, "AttributeStatement"):
        for attribute in statement.having(SAML, "Attribute"):
            values = attribute.having(SAML, "AttributeValue")
            # A value with elements in it is no text; what is around them must not pass for it.
            texts = [each.text for each in values if not each.children]
            found.setdefault(attribute.attributes.get("Name", ""), []).extend(texts)
    return found


def _one(parent: Element, name: str) -> Element:
    found = parent.having(SAML, name)
    if len(found) != 1:
        raise _refused(f"not one {name}", "sent an answer that is not complete")
    return found[0]


def _time(element: Element, name: str) -> float | None:
    text = element.attributes.get(name)
    try:
        return None if text is None else seconds_of(text)
    except ValueError:
        raise _refused(f"{name} is no time", "sent an answer that is not complete") from None


def _refused(reason: str, what: str) -> SignInRefusedError:
    return SignInRefusedError(f"saml {reason}", f"it {what}")
