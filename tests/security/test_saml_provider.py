"""Answers of a SAML identity provider that must not let anybody in, and the good ones beside them.

Wrapped, unsigned, commented, replayed, for others, too early, too late: CVE-2026-25922, CVE-2026-47201 and
CVE-2026-57580 (authentik), CVE-2020-5390, CVE-2021-21238 and CVE-2021-21239 (pysaml2) among them.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.auth_server import AuthServer, Pkce, running_auth_server
from tests.openid_provider import newcomer
from tests.person import Person
from tests.saml_provider import (
    ASSERTION,
    EXCLUSIVE,
    PROTOCOL,
    Answer,
    Request,
    SamlProvider,
    SigningKey,
    ask,
    elliptic_key,
    instant,
    post,
    post_text,
    running_saml_provider,
    sign,
    signature_template,
)
from tests.stores import client_of

pytestmark = pytest.mark.xmlsec1

Start = Callable[..., AuthServer]
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
DSIG = "http://www.w3.org/2000/09/xmldsig#"


@pytest.fixture(scope="module")
def provider() -> Iterator[SamlProvider]:
    with running_saml_provider() as running:
        yield running


@pytest.fixture(scope="module")
def server(store_url: str, provider: SamlProvider) -> Iterator[AuthServer]:
    identity = {"local": {"kind": "local"}, "corp": provider.settings(title="Corp")}
    with running_auth_server(store_url, identity=identity) as running:
        yield running


@pytest.fixture(autouse=True)
def _nobody_came_in_yet(server: AuthServer) -> None:
    server.audit_lines.truncate(server.audit_lines.seek(0))


@pytest.fixture
def person(server: AuthServer) -> Person:
    return newcomer(server)


@pytest.fixture
def request_(server: AuthServer, person: Person) -> Request:
    return ask(person, server.authorization_url(server.register().id, Pkce()))


@pytest.fixture
def answer(provider: SamlProvider, request_: Request) -> Answer:
    return provider.answer(request_)


def assert_refused(server: AuthServer, page: httpx2.Response, reason: str) -> None:
    """Nobody came in; the page says it in one sentence, the audit log says why, and neither has a word of the XML."""
    assert page.status_code == 403, page.text
    assert "Corp did not sign you in: it" in page.text
    events = server.events("user.login")
    assert [each["outcome"] for each in events] == ["failure"]
    assert events[0]["reason"] == f"corp failure: saml {reason}"
    assert "saml:" not in page.text
    assert "ada-7" not in page.text + server.audit_lines.getvalue()


def evil(answer: Answer) -> str:
    """An assertion that nobody signed, about somebody else."""
    return answer.assertion(subject="root", identifier="_evil")


def wrap_in_signature(signed: str, inside: str) -> str:
    return signed.replace("</ds:Signature>", f"<ds:Object>{inside}</ds:Object></ds:Signature>")


def without_signature(signed: str) -> str:
    begin, end = signed.index("<ds:Signature"), signed.index("</ds:Signature>") + len("</ds:Signature>")
    return signed[:begin] + signed[end:]


def signature_of(signed: str) -> str:
    return signed[signed.index("<ds:Signature") : signed.index("</ds:Signature>") + len("</ds:Signature>")]


def after_issuer(assertion: str, inside: str) -> str:
    return assertion.replace("</saml:Issuer>", f"</saml:Issuer>{inside}", 1)


def xsw1(answer: Answer) -> str:
    """A signed response, inside the signature of a forged one."""
    answer.sign_response = True
    document = answer.document()
    forged = answer.response(evil(answer), identifier="_forged", signature="@")
    return forged.replace("@", wrap_in_signature(signature_of(document), without_signature(document)))


def xsw2(answer: Answer) -> str:
    """A signed response, beside its signature in a forged one."""
    answer.sign_response = True
    document = answer.document()
    forged = answer.response(evil(answer), identifier="_forged", signature="@")
    return forged.replace("@", without_signature(document) + signature_of(document))


def xsw3(answer: Answer) -> str:
    """A forged assertion before the signed one."""
    return answer.response(evil(answer) + answer.signed_assertion())


def xsw4(answer: Answer) -> str:
    """A forged assertion around the signed one."""
    return answer.response(evil(answer).replace("</saml:Assertion>", answer.signed_assertion() + "</saml:Assertion>"))


def xsw5(answer: Answer) -> str:
    """A forged assertion with the signature of the one behind it."""
    signed = answer.signed_assertion()
    return answer.response(after_issuer(evil(answer), signature_of(signed)) + without_signature(signed))


def xsw6(answer: Answer) -> str:
    """A forged assertion with a signature that has the signed one in it."""
    signed = answer.signed_assertion()
    inside = wrap_in_signature(signature_of(signed), without_signature(signed))
    return answer.response(after_issuer(evil(answer), inside))


def xsw7(answer: Answer) -> str:
    """A forged assertion in the extensions, where schemas allow everything."""
    return answer.response(answer.signed_assertion(), before=f"<samlp:Extensions>{evil(answer)}</samlp:Extensions>")


def xsw8(answer: Answer) -> str:
    """A forged assertion with the signed one as an object of its signature, by its own ID."""
    signed = answer.signed_assertion()
    forged = evil(answer).replace("_evil", answer.assertion_id)
    inside = wrap_in_signature(signature_of(signed), without_signature(signed))
    return answer.response(after_issuer(forged, inside))


def same_id(answer: Answer) -> str:
    """A forged assertion that has the signed one's ID."""
    signed = answer.signed_assertion()
    return answer.response(evil(answer).replace("_evil", answer.assertion_id) + signed)


def in_extensions(answer: Answer) -> str:
    """The signed assertion in the extensions, and none where it belongs."""
    return answer.response("", before=f"<samlp:Extensions>{answer.signed_assertion()}</samlp:Extensions>")


def foreign_signature(answer: Answer) -> str:
    """A signed assertion, and one more signature in the response's extensions."""
    signed = answer.signed_assertion()
    return answer.response(signed, before=f"<samlp:Extensions>{signature_of(signed)}</samlp:Extensions>")


WRAPPED: dict[Callable[[Answer], str], str] = {
    xsw1: "not one assertion",
    xsw2: "not one assertion",
    xsw3: "not one assertion",
    xsw4: "not one assertion",
    xsw5: "not one assertion",
    xsw6: "not one assertion",
    xsw7: "not one assertion",
    xsw8: "two elements with one ID",
    same_id: "two elements with one ID",
    in_extensions: "an assertion where none belongs",
    foreign_signature: "a signature where none belongs",
}


@pytest.mark.parametrize("wrap", WRAPPED, ids=lambda each: each.__name__)
def test_a_wrapped_assertion_is_refused(
    server: AuthServer, person: Person, answer: Answer, wrap: Callable[[Answer], str]
) -> None:
    assert_refused(server, post(person, answer.request, wrap(answer)), WRAPPED[wrap])


def good(answer: Answer) -> str:
    return answer.document()


def both_signed(answer: Answer) -> str:
    answer.sign_response = True
    return answer.document()


def declared(answer: Answer) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{answer.document()}'


def namespaces_of_the_response(answer: Answer) -> str:
    """As some do: the assertion's prefix is declared around it."""
    signed = answer.signed_assertion().replace(f' xmlns:saml="{ASSERTION}"', "", 1)
    return answer.response(signed).replace("<samlp:Response ", f'<samlp:Response xmlns:saml="{ASSERTION}" ', 1)


def longer_algorithms(answer: Answer) -> str:
    more = "http://www.w3.org/2001/04/xmldsig-more#"
    answer.algorithms = {"signature": f"{more}rsa-sha512", "digest": "http://www.w3.org/2001/04/xmlenc#sha512"}
    return answer.document()


def with_key_info(answer: Answer) -> str:
    data = f"<ds:X509Data><ds:X509Certificate>{answer.key.certificate_text}</ds:X509Certificate></ds:X509Data>"
    answer.algorithms = {"key_info": f"<ds:KeyInfo>{data}</ds:KeyInfo>"}
    return answer.document()


@pytest.mark.parametrize(
    "make",
    [good, both_signed, declared, namespaces_of_the_response, longer_algorithms, with_key_info],
    ids=lambda each: each.__name__,
)
def test_a_good_answer_lets_somebody_in(
    server: AuthServer, person: Person, answer: Answer, make: Callable[[Answer], str]
) -> None:
    page = post(person, answer.request, make(answer))
    assert page.status_code == 303, page.text
    assert "code=" in page.headers["location"]


def test_a_key_on_an_elliptic_curve_signs_too(start_auth_server: Start, provider: SamlProvider) -> None:
    key = elliptic_key()
    provider.published = [SigningKey(), key]
    server = start_auth_server(identity={"corp": provider.settings()})
    person = newcomer(server)
    try:
        request = ask(person, server.authorization_url(server.register().id, Pkce()))
        algorithm = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"
        answer = provider.answer(request, key=key, algorithms={"signature": algorithm})
        assert post(person, request, answer.document()).status_code == 303
    finally:
        provider.published = None


def unsigned(answer: Answer) -> str:
    answer.sign_assertion = False
    return answer.document()


def signature_removed(answer: Answer) -> str:
    return without_signature(answer.document())


def only_the_response_signed(answer: Answer) -> str:
    answer.sign_assertion, answer.sign_response = False, True
    return answer.document()


def response_signature_broken(answer: Answer) -> str:
    answer.sign_response = True
    return answer.document().replace(
        'IssueInstant="', 'Consent="urn:oasis:names:tc:SAML:2.0:consent:obtained" IssueInstant="', 1
    )


def other_key(answer: Answer) -> str:
    answer.key = SigningKey()
    return answer.document()


def other_key_in_key_info(answer: Answer) -> str:
    answer.key = SigningKey()
    return with_key_info(answer)


def key_value_of_another(answer: Answer) -> str:
    """CVE-2021-21239: xmlsec1 would take a key that the signature itself brings."""
    answer.key = SigningKey()
    answer.algorithms = {"key_info": "<ds:KeyInfo><ds:KeyValue/></ds:KeyInfo>"}
    return answer.document()


def subject_changed(answer: Answer) -> str:
    return answer.document().replace("ada-7", "root")


def attribute_added(answer: Answer) -> str:
    return answer.document().replace("</saml:AttributeValue>", "</saml:AttributeValue><saml:AttributeValue/>", 1)


def sha1(answer: Answer) -> str:
    answer.algorithms = {"signature": f"{DSIG}rsa-sha1"}
    return answer.document()


def sha1_digest(answer: Answer) -> str:
    answer.algorithms = {"digest": f"{DSIG}sha1"}
    return answer.document()


def hmac_with_the_public_key(answer: Answer) -> str:
    template = signature_template(answer.assertion_id, signature="http://www.w3.org/2001/04/xmldsig-more#hmac-sha256")
    document = answer.assertion(signature=template)
    secret = answer.key.certificate_pem.encode()
    return answer.response(sign(document, answer.assertion_id, answer.key, hmac=secret))


def inclusive_canonicalization(answer: Answer) -> str:
    answer.algorithms = {"canonicalization": "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"}
    return answer.document()


def comments_kept(answer: Answer) -> str:
    answer.algorithms = {"transforms": (ENVELOPED, f"{EXCLUSIVE}WithComments")}
    return answer.document()


def three_transforms(answer: Answer) -> str:
    answer.algorithms = {"transforms": (ENVELOPED, EXCLUSIVE, EXCLUSIVE)}
    return answer.document()


def whole_document_signed(answer: Answer) -> str:
    signed = answer.signed_assertion()
    return answer.response(signed.replace(f'URI="#{answer.assertion_id}"', 'URI=""'))


def two_references(answer: Answer) -> str:
    signed = answer.signed_assertion()
    reference = signed[signed.index("<ds:Reference") : signed.index("</ds:SignedInfo>")]
    return answer.response(signed.replace("</ds:SignedInfo>", f"{reference}</ds:SignedInfo>"))


def two_signatures(answer: Answer) -> str:
    signed = answer.signed_assertion()
    return answer.response(after_issuer(signed, signature_of(signed)))


def object_in_the_signature(answer: Answer) -> str:
    return answer.response(wrap_in_signature(answer.signed_assertion(), "more"))


def against_the_schema(answer: Answer) -> str:
    """CVE-2021-21238: signed, but no assertion by the schema."""
    unknown = "<saml:Unknown/></saml:Assertion>"
    text = answer.assertion(signature=signature_template(answer.assertion_id)).replace("</saml:Assertion>", unknown)
    return answer.response(sign(text, answer.assertion_id, answer.key))


UNPROVED: dict[Callable[[Answer], str], str] = {
    unsigned: "not signed",
    signature_removed: "not signed",
    only_the_response_signed: "not signed",
    response_signature_broken: "the signature does not hold",
    other_key: "the signature does not hold",
    other_key_in_key_info: "the signature does not hold",
    key_value_of_another: "the signature does not hold",
    subject_changed: "the signature does not hold",
    attribute_added: "the signature does not hold",
    sha1: "a signature algorithm that is not allowed",
    sha1_digest: "a digest algorithm that is not allowed",
    hmac_with_the_public_key: "a signature algorithm that is not allowed",
    inclusive_canonicalization: "a transform that is not allowed",
    comments_kept: "a transform that is not allowed",
    three_transforms: "a transform that is not allowed",
    whole_document_signed: "the signature is of another element",
    two_references: "not one Reference in the signature",
    two_signatures: "two signatures",
    object_in_the_signature: "an object in the signature",
    against_the_schema: "the signature does not hold",
}


@pytest.mark.parametrize("make", UNPROVED, ids=lambda each: each.__name__)
def test_an_assertion_that_is_not_proved_is_refused(
    server: AuthServer, person: Person, answer: Answer, make: Callable[[Answer], str]
) -> None:
    assert_refused(server, post(person, answer.request, make(answer)), UNPROVED[make])


def comment_in_name(answer: Answer) -> str:
    """A comment does not count in the signature, and cuts the name for careless readers."""
    answer.subject = "ada-7@example.com.evil.example"
    return answer.document().replace("example.com.evil", "example.com<!---->.evil")


def comment_in_attribute(answer: Answer) -> str:
    return answer.document().replace(">ada<", "><!-- -->ada<")


def comment_elsewhere(answer: Answer) -> str:
    return answer.document() + "<!-- -->"


def cdata_in_name(answer: Answer) -> str:
    return answer.document().replace("ada-7", "<![CDATA[ada-7]]>")


def instruction_in_name(answer: Answer) -> str:
    return answer.document().replace("ada-7", "ada<?x y?>-7")


def document_type(answer: Answer) -> str:
    return "<!DOCTYPE samlp:Response>" + answer.document()


def external_document_type(answer: Answer) -> str:
    return f'<!DOCTYPE r SYSTEM "{answer.issuer}/dtd">' + answer.document()


def entity(answer: Answer) -> str:
    return '<!DOCTYPE r [<!ENTITY n "root">]>' + answer.document().replace("ada-7", "&n;")


def entity_bomb(answer: Answer) -> str:
    levels = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    return f'<!DOCTYPE r [<!ENTITY e0 "x">{levels}]>' + answer.document().replace("ada-7", "&e9;")


def utf16(answer: Answer) -> bytes:
    return ('<?xml version="1.0" encoding="UTF-16"?>' + answer.document()).encode("utf-16")


def latin1(answer: Answer) -> str:
    return '<?xml version="1.0" encoding="ISO-8859-1"?>' + answer.document()


def xml_id(answer: Answer) -> str:
    return answer.document().replace("<samlp:Status>", '<samlp:Status xml:id="_x">')


def truncated(answer: Answer) -> str:
    document = answer.document()
    return document[: len(document) // 2]


def no_xml(_: Answer) -> str:
    return "not XML"


def nothing(_: Answer) -> str:
    return " "


def deep(answer: Answer) -> str:
    return answer.response("<a>" * 200 + "</a>" * 200)


def two_assertions(answer: Answer) -> str:
    second = Answer(answer.request, answer.issuer, answer.key)
    return answer.response(answer.signed_assertion() + second.signed_assertion())


def no_assertion(answer: Answer) -> str:
    return answer.response("")


def encrypted_for_nobody(answer: Answer) -> str:
    return answer.response(f'<saml:EncryptedAssertion xmlns:saml="{ASSERTION}"/>')


def another_message(answer: Answer) -> str:
    return answer.document().replace("samlp:Response", "samlp:LogoutResponse")


def an_assertion_alone(answer: Answer) -> str:
    return answer.signed_assertion()


NOT_READ: dict[Callable[[Answer], Any], str] = {
    comment_in_name: "a comment in the document",
    comment_in_attribute: "a comment in the document",
    comment_elsewhere: "a comment in the document",
    cdata_in_name: "a CDATA section in the document",
    instruction_in_name: "a processing instruction in the document",
    document_type: "a document type in the document",
    external_document_type: "a document type in the document",
    entity: "a document type in the document",
    entity_bomb: "a document type in the document",
    utf16: "not UTF-8",
    latin1: "not XML 1.0 in UTF-8",
    xml_id: "xml:id or xml:base in the document",
    truncated: "not XML",
    no_xml: "not XML",
    nothing: "not XML",
    deep: "too many elements",
    two_assertions: "not one assertion",
    no_assertion: "not one assertion",
    encrypted_for_nobody: "encrypted",
    another_message: "not a response",
    an_assertion_alone: "not a response",
}


@pytest.mark.parametrize("make", NOT_READ, ids=lambda each: each.__name__)
def test_a_document_that_is_none_is_refused(
    server: AuthServer, person: Person, answer: Answer, make: Callable[[Answer], Any]
) -> None:
    assert_refused(server, post(person, answer.request, make(answer)), NOT_READ[make])


NOT_OURS: dict[str, tuple[dict[str, Any], str]] = {
    "audience": ({"changes": {"audience": "https://other.example"}}, "audience"),
    "recipient": ({"changes": {"recipient": "https://other.example/acs"}}, "recipient"),
    "destination": ({"changes": {"destination": "https://other.example/acs"}}, "destination"),
    "issuer": ({"changes": {"assertion_issuer": "https://other.example"}}, "issuer"),
    "issuer of the response": ({"changes": {"response_issuer": "https://other.example"}}, "issuer"),
    "request": ({"changes": {"in_response_to": "_other"}}, "in response to"),
    "request of the response": ({"changes": {"response_in_response_to": "_other"}}, "in response to"),
    "expired": ({"begins": -600, "ends": -90}, "expired"),
    "not yet valid": ({"begins": 90, "ends": 600}, "not yet valid"),
    "session over": ({"session_ends": -1}, "session over"),
    "transient name": (
        {"name_format": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"},
        "NameID format",
    ),
    "name of no format": ({"name_format": "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"}, "NameID format"),
    "authentication failed": (
        {"status": '<samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Responder"><samlp:StatusCode'
                   ' Value="urn:oasis:names:tc:SAML:2.0:status:AuthnFailed"/></samlp:StatusCode>'},
        "answered AuthnFailed",
    ),
    "a status of its own": ({"status": '<samlp:StatusCode Value="ada-7"/>'}, "answered an error"),
    "no status": ({"status": ""}, "status"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_OURS)
def test_an_answer_that_is_not_for_us_now_is_refused(
    server: AuthServer, person: Person, provider: SamlProvider, request_: Request, case: str
) -> None:
    changes, reason = NOT_OURS[case]
    assert_refused(server, post(person, request_, provider.answer(request_, **changes).document()), reason)


def without(text: str) -> Callable[[str], str]:
    def change(assertion: str) -> str:
        assert text in assertion
        return assertion.replace(text, "")

    return change


def element(name: str) -> Callable[[str], str]:
    def change(assertion: str) -> str:
        begin, end = assertion.index(f"<saml:{name}"), assertion.index(f"</saml:{name}>") + len(f"</saml:{name}>")
        return assertion[:begin] + assertion[end:]

    return change


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(assertion: str) -> str:
        assert old in assertion
        return assertion.replace(old, new, 1)

    return change


BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
INCOMPLETE: dict[str, tuple[Callable[[str], str], str]] = {
    "no conditions": (element("Conditions"), "not one Conditions"),
    "no audience": (element("AudienceRestriction"), "audience"),
    "no subject": (element("Subject"), "not one Subject"),
    "no name": (element("NameID"), "NameID format"),
    "no confirmation": (element("SubjectConfirmation"), "subject confirmation"),
    "holder of key": (replaced(BEARER, BEARER.replace("bearer", "holder-of-key")), "subject confirmation"),
    "sender vouches": (replaced(BEARER, BEARER.replace("bearer", "sender-vouches")), "subject confirmation"),
    "no authentication": (element("AuthnStatement"), "no authentication"),
    "unknown condition": (
        replaced("<saml:AudienceRestriction>", '<saml:Condition xmlns:x="http://www.w3.org/2001/XMLSchema-instance"'
                 ' xmlns:s="http://www.w3.org/2001/XMLSchema" x:type="s:string"/><saml:AudienceRestriction>'),
        "the signature does not hold",
    ),
    "a second audience that is not ours": (
        replaced("</saml:Conditions>", "<saml:AudienceRestriction><saml:Audience>x</saml:Audience>"
                 "</saml:AudienceRestriction></saml:Conditions>"),
        "audience",
    ),
    "another version": (replaced('Version="2.0"', 'Version="1.1"'), "version"),
    "elements in the name": (replaced("ada-7", "ada<saml:x/>-7"), "the signature does not hold"),
}  # fmt: skip


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_signed_assertion_that_says_too_little_is_refused(
    server: AuthServer, person: Person, answer: Answer, case: str
) -> None:
    change, reason = INCOMPLETE[case]
    text = change(answer.assertion(signature=signature_template(answer.assertion_id)))
    document = answer.response(sign(text, answer.assertion_id, answer.key))
    assert_refused(server, post(person, answer.request, document), reason)


def test_clocks_may_differ_by_the_leeway(server: AuthServer, person: Person, provider: SamlProvider) -> None:
    for changes in ({"begins": 45}, {"ends": -45}):
        request = ask(newcomer(server) if "ends" in changes else person, _url(server))
        reader = server.people[-1] if "ends" in changes else person
        assert post(reader, request, provider.answer(request, **changes).document()).status_code == 303


def _url(server: AuthServer) -> str:
    return server.authorization_url(server.register().id, Pkce())


def test_an_answer_counts_once(server: AuthServer, person: Person, answer: Answer) -> None:
    document = answer.document()
    assert post(person, answer.request, document).status_code == 303
    again = post(person, answer.request, document)
    assert again.status_code == 400
    assert "This sign-in is over" in again.text


def test_an_assertion_counts_once_though_it_is_signed_anew_for_another_request(
    server: AuthServer, person: Person, answer: Answer, provider: SamlProvider
) -> None:
    assert post(person, answer.request, answer.document()).status_code == 303
    other = newcomer(server)
    request = ask(other, _url(server))
    again = post(other, request, provider.answer(request, assertion_id=answer.assertion_id).document())
    assert again.status_code == 403
    assert server.events("user.login")[-1]["reason"] == "corp failure: saml replay"


def test_an_answer_without_a_request_is_refused(server: AuthServer, answer: Answer) -> None:
    stranger = newcomer(server)
    for state in ("", "x", "x" * 65, "x" * 43):
        page = post(stranger, answer.request, answer.document(), RelayState=state)
        assert page.status_code == 400
        assert "This sign-in is over" in page.text
    assert not server.events("user.login")


def test_an_answer_in_another_browser_is_refused_and_the_right_one_can_still_come(
    server: AuthServer, person: Person, answer: Answer
) -> None:
    document = answer.document()
    page = post(newcomer(server), answer.request, document)
    assert page.status_code == 400
    assert "another browser" in page.text
    assert post(person, answer.request, document).status_code == 303


def test_an_answer_to_somebody_elses_request_is_refused(
    server: AuthServer, person: Person, answer: Answer, provider: SamlProvider
) -> None:
    """Sign-in swapping: what was vouched to another browser's request is worth nothing in this one's."""
    other = newcomer(server)
    theirs = ask(other, _url(server))
    document = provider.answer(theirs).document()
    assert_refused(server, post(person, answer.request, document), "in response to")


def test_nothing_is_decided_on_the_post(server: AuthServer, answer: Answer) -> None:
    with httpx2.Client() as elsewhere:
        body = {"SAMLResponse": base64.b64encode(answer.document().encode()).decode()}
        body["RelayState"] = answer.request.relay_state
        page = elsewhere.post(answer.request.recipient, data=body)
    assert page.status_code == 303
    assert "set-cookie" not in page.headers
    assert page.headers["location"].startswith("/saml/corp/finish?state=")
    assert not server.events("user.login")


def test_what_was_posted_lies_encrypted_in_the_store_and_not_for_long(
    server: AuthServer, answer: Answer, store_url: str
) -> None:
    test_nothing_is_decided_on_the_post(server, answer)
    with client_of(store_url) as redis:
        found = [(str(redis.get(key)), int(redis.ttl(key))) for key in redis.scan_iter("ks:posted:*")]
    assert found
    assert all("<" not in text and 0 < ttl <= 60 for text, ttl in found)


def test_the_browser_that_comes_before_anything_was_posted_is_told_so(
    server: AuthServer, person: Person, request_: Request
) -> None:
    page = person.get(f"{server.issuer}/saml/corp/finish?state={request_.relay_state}")
    assert_refused(server, page, "no response")


@pytest.mark.parametrize("text", ["<xml>", "====", "ä", "A" * 5, "%00"])
def test_what_is_not_base64_is_refused(server: AuthServer, person: Person, request_: Request, text: str) -> None:
    assert_refused(server, post_text(person, request_, text), "not base64")


def test_base64_may_have_line_breaks(server: AuthServer, person: Person, answer: Answer) -> None:
    text = base64.encodebytes(answer.document().encode()).decode().replace("\n", "\r\n")
    assert post_text(person, answer.request, text).status_code == 303


def test_what_is_too_large_is_not_read(server: AuthServer, person: Person, request_: Request) -> None:
    page = post_text(person, request_, "A" * 300_000)
    assert page.status_code == 413
    assert post_text(person, request_, "A" * 240_000).status_code == 403


def test_a_post_that_is_no_form_is_refused(server: AuthServer, request_: Request) -> None:
    for content, kind in ((b"{}", "application/json"), (b"a=%FF", "application/x-www-form-urlencoded"),
                          (b"RelayState=a&RelayState=b", "application/x-www-form-urlencoded")):  # fmt: skip
        answer = server.http.post(request_.recipient, content=content, headers={"Content-Type": kind})
        assert answer.status_code == 400
    assert server.http.get(request_.recipient).status_code == 405


def test_the_callback_of_openid_providers_takes_no_assertion(
    server: AuthServer, person: Person, answer: Answer
) -> None:
    text = base64.urlsafe_b64encode(b"<x/>").decode()
    page = person.get(f"{server.issuer}/login/callback/corp?state={answer.request.relay_state}&code={text}")
    assert page.status_code == 400
    assert not server.events("user.login")


def test_too_many_posts_from_one_address_wait(start_auth_server: Start, provider: SamlProvider) -> None:
    limits = {"failures_per_5_minutes_and_address": 2}
    server = start_auth_server(identity={"corp": provider.settings()}, sign_in=limits)
    person = newcomer(server)
    request = ask(person, _url(server))
    body = {"SAMLResponse": "x", "RelayState": request.relay_state}
    with httpx2.Client() as elsewhere:
        statuses = [elsewhere.post(request.recipient, data=body).status_code for _ in range(3)]
    assert statuses[-1] == 429


def test_identities_of_other_kinds_have_no_addresses_for_saml(server: AuthServer) -> None:
    for name in ("local", "nobody"):
        assert server.http.get(f"{server.issuer}/saml/{name}/metadata").status_code == 404
        assert server.http.post(f"{server.issuer}/saml/{name}/acs", data={"RelayState": "x"}).status_code == 404


def test_nothing_of_the_document_is_logged(
    server: AuthServer, person: Person, answer: Answer, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level("DEBUG")
    answer.key = SigningKey()
    post(person, answer.request, answer.document())
    output = capfd.readouterr()
    for text in (caplog.text, output.out, output.err):
        assert "ada-7" not in text
        assert answer.assertion_id not in text
    assert instant()[:4] not in [record.getMessage() for record in caplog.records if record.name.startswith("saml2")]
    assert PROTOCOL not in caplog.text
