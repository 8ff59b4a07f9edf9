"""Signing in at a SAML identity provider: what people see, who they are here, and until when."""

import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.auth_server import CALLBACK, RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer, Pkce
from tests.clock import Clock
from tests.openid_provider import choose, newcomer, to_provider
from tests.person import Person, form
from tests.saml_provider import (
    ASSERTION,
    Answer,
    SamlProvider,
    SigningKey,
    ask,
    instant,
    post,
    read_request,
    running_saml_provider,
    sign,
    signature_template,
)

pytestmark = pytest.mark.xmlsec1

Start = Callable[..., AuthServer]
MD = "urn:oasis:names:tc:SAML:2.0:metadata"
UNSPECIFIED = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
EMAIL = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress"
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
OWN_KEY = SigningKey()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider() -> Iterator[SamlProvider]:
    with running_saml_provider() as running:
        yield running


@pytest.fixture
def start(start_auth_server: Start, provider: SamlProvider, clock: Clock) -> Callable[..., AuthServer]:
    """Starts a server with the identity `corp`, whose settings a test changes."""

    def run(**settings: Any) -> AuthServer:
        resources = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}
        resources["user_scopes"] = {"corp": ["mcp:basic"], "corp/admins": ["mcp:jobs"]}
        corp = provider.settings(title="Corp", **settings)
        corp = {name: value for name, value in corp.items() if value is not None}
        return start_auth_server(clock=clock, identity={"corp": corp}, resources={"mcp": resources})

    return run


def own_key(**more: Any) -> dict[str, Any]:
    return {"key": OWN_KEY.pem, "certificate": OWN_KEY.certificate_pem, **more}


def tokens(server: AuthServer, provider: SamlProvider, person: Person | None = None, **changes: Any) -> dict[str, Any]:
    """The tokens of somebody who signs in there, and the client's id."""
    client, pkce, reader = server.register(), Pkce(), person or newcomer(server)
    request = ask(reader, server.authorization_url(client.id, pkce, scope="mcp:basic mcp:jobs"))
    answer = post(reader, request, provider.answer(request, **changes).document())
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(CALLBACK)
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    redeemed = server.redeem(client.id, code, pkce)
    assert redeemed.status_code == 200, redeemed.text
    return {**redeemed.json(), "client_id": client.id}


def who(server: AuthServer, issued: dict[str, Any]) -> dict[str, Any]:
    return server.introspect(issued["access_token"])


def try_to_sign_in(server: AuthServer, provider: SamlProvider, **changes: Any) -> Any:
    person = newcomer(server)
    request = ask(person, server.authorization_url(server.register().id, Pkce()))
    return post(person, request, provider.answer(request, **changes).document())


def begin(server: AuthServer) -> Any:
    """Choose the identity and consent; answers what the browser gets."""
    return to_provider(newcomer(server), server.authorization_url(server.register().id, Pkce()), "corp")


def test_somebody_signs_in_and_has_the_scopes_of_the_groups_there(start: Start, provider: SamlProvider) -> None:
    server = start()
    provider.attributes["groups"] = ["staff", "admins"]
    answer = who(server, tokens(server, provider))
    assert answer["username"] == "corp/ada"
    assert answer["scope"] == "mcp:basic mcp:jobs"
    (event,) = server.events("user.login")
    assert (event["outcome"], event["reason"], event["actor"]["sub"]) == ("success", "corp success", answer["sub"])
    provider.attributes["groups"] = ["staff"]
    assert who(server, tokens(server, provider))["scope"] == "mcp:basic"


def test_the_account_page_is_reached_without_a_client(start: Start, provider: SamlProvider) -> None:
    server = start()
    person = newcomer(server)
    there = choose(person, person.get(f"{server.issuer}/account"), "corp")
    request = read_request(there.headers["location"])
    page = post(person, request, provider.answer(request).document())
    assert page.status_code == 200
    assert "corp/ada" in page.text


def test_the_request_says_who_asks_and_where_the_answer_goes(start: Start, provider: SamlProvider) -> None:
    server = start()
    request = ask(newcomer(server), server.authorization_url(server.register().id, Pkce()))
    assert request.issuer == f"{server.issuer}/saml/corp/metadata"
    assert request.recipient == f"{server.issuer}/saml/corp/acs"
    assert len(request.relay_state) == 43
    assert request.id.startswith("_")
    root = ElementTree.fromstring(request.xml)
    assert root.attrib["Destination"] == f"{provider.origin}/sso"
    assert root.attrib["ProtocolBinding"] == "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"
    assert "ForceAuthn" not in root.attrib
    assert "SigAlg" not in request.query


def test_who_wants_to_be_somebody_else_is_asked_anew_there(start: Start, provider: SamlProvider) -> None:
    server = start()
    person = newcomer(server)
    tokens(server, provider, person)
    page = person.get(server.authorization_url(server.register().id, Pkce()))
    page = choose(person, person.submit(form(page, "/switch-user")), "corp")
    there = person.submit(form(page, "/login/upstream"), decision="allow")
    request = read_request(there.headers["location"])
    assert ElementTree.fromstring(request.xml).attrib["ForceAuthn"] == "true"


def test_requests_are_signed_where_there_is_a_key(start: Start) -> None:
    server = start(**own_key())
    location = begin(server).headers["location"]
    query = urlsplit(location).query
    signed, _, signature = query.partition("&Signature=")
    assert "SigAlg=http%3A%2F%2Fwww.w3.org%2F2001%2F04%2Fxmldsig-more%23rsa-sha256" in signed
    OWN_KEY.private.public_key().verify(
        b64decode(unquote(signature)), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )


def test_our_metadata_says_what_a_provider_has_to_know(start: Start) -> None:
    server = start(**own_key())
    answer = server.http.get(f"{server.issuer}/saml/corp/metadata")
    assert answer.headers["content-type"] == "application/samlmetadata+xml"
    root = ElementTree.fromstring(answer.text)
    assert root.attrib["entityID"] == f"{server.issuer}/saml/corp/metadata"
    (role,) = root
    assert role.attrib["WantAssertionsSigned"] == role.attrib["AuthnRequestsSigned"] == "true"
    service = role.find(f"{{{MD}}}AssertionConsumerService")
    assert service is not None
    assert service.attrib["Location"] == f"{server.issuer}/saml/corp/acs"
    assert {key.attrib["use"] for key in role.findall(f"{{{MD}}}KeyDescriptor")} == {"signing", "encryption"}
    assert answer.text.count(OWN_KEY.certificate_text) == 2


def test_without_a_key_our_metadata_has_none(start: Start) -> None:
    server = start(entity_id="urn:example:keystile", name_id_format="unspecified")
    text = server.http.get(f"{server.issuer}/saml/corp/metadata").text
    assert 'entityID="urn:example:keystile"' in text
    assert "KeyDescriptor" not in text
    assert "NameIDFormat" not in text


@pytest.mark.parametrize(
    ("cipher", "size"), [("xmlenc11#aes256-gcm", 32), ("xmlenc#aes128-cbc", 16), ("xmlenc#aes256-cbc", 32)]
)
def test_an_assertion_may_be_encrypted_for_us(
    start: Start, provider: SamlProvider, cipher: str, size: int, tmp_path: Path
) -> None:
    server = start(**own_key())
    person = newcomer(server)
    request = ask(person, server.authorization_url(server.register().id, Pkce()))
    answer = provider.answer(request)
    page = post(person, request, answer.response(encrypted(answer.signed_assertion(), cipher, tmp_path)))
    assert page.status_code == 303, page.text + str(server.events("user.login"))


def encrypted(
    assertion: str, cipher: str, folder: Path, *, key: SigningKey = OWN_KEY, transport: str = "xmlenc#rsa-oaep-mgf1p"
) -> str:
    """An assertion encrypted for the holder of a key; xmlsec1 does it."""
    w3 = "http://www.w3.org/20"
    year = {"xmlenc#": "01/04/", "xmlenc11": "09/"}
    cipher_url = f"{w3}{year[cipher[:7] if cipher.startswith('xmlenc#') else 'xmlenc11']}{cipher}"
    template = (
        '<xenc:EncryptedData xmlns:xenc="http://www.w3.org/2001/04/xmlenc#"'
        ' Type="http://www.w3.org/2001/04/xmlenc#Element">'
        f'<xenc:EncryptionMethod Algorithm="{cipher_url}"/><ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#">'
        f'<xenc:EncryptedKey><xenc:EncryptionMethod Algorithm="{w3}01/04/{transport}"/><xenc:CipherData>'
        "<xenc:CipherValue/></xenc:CipherData></xenc:EncryptedKey></ds:KeyInfo><xenc:CipherData><xenc:CipherValue/>"
        "</xenc:CipherData></xenc:EncryptedData>"
    )
    (folder / "template.xml").write_text(template)
    (folder / "data.xml").write_text(assertion)
    (folder / "cert.pem").write_text(key.certificate_pem)
    session = f"aes-{cipher.rpartition('aes')[2][:3]}"
    command = ["xmlsec1", "--encrypt", "--pubkey-cert-pem", str(folder / "cert.pem"), "--session-key", session]
    command += ["--xml-data", str(folder / "data.xml"), "--output", str(folder / "out.xml")]
    ended = subprocess.run([*command, str(folder / "template.xml")], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    data = (folder / "out.xml").read_text().partition("?>\n")[2]
    return f'<saml:EncryptedAssertion xmlns:saml="{ASSERTION}">{data}</saml:EncryptedAssertion>'


def refused_cipher(start: Start, provider: SamlProvider, make: Callable[[Answer], str]) -> str:
    server = start(**own_key())
    person = newcomer(server)
    request = ask(person, server.authorization_url(server.register().id, Pkce()))
    answer = provider.answer(request)
    page = post(person, request, answer.response(make(answer)))
    assert page.status_code == 403
    return str(server.events("user.login")[-1]["reason"]).removeprefix("corp failure: saml ")


GCM = "xmlenc11#aes256-gcm"


def test_what_is_encrypted_needs_a_signature_too(start: Start, provider: SamlProvider, tmp_path: Path) -> None:
    reason = refused_cipher(start, provider, lambda answer: encrypted(answer.assertion(), GCM, tmp_path))
    assert reason == "not signed"


def test_what_is_encrypted_for_another_cannot_be_opened(start: Start, provider: SamlProvider, tmp_path: Path) -> None:
    reason = refused_cipher(
        start, provider, lambda answer: encrypted(answer.signed_assertion(), GCM, tmp_path, key=SigningKey())
    )
    assert reason == "cannot be decrypted"


def test_keys_are_not_encrypted_in_the_old_way(start: Start, provider: SamlProvider, tmp_path: Path) -> None:
    def make(answer: Answer) -> str:
        return encrypted(answer.signed_assertion(), GCM, tmp_path, transport="xmlenc#rsa-1_5")

    assert refused_cipher(start, provider, make) == "an encryption algorithm that is not allowed"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<xenc:CipherValue>", '<xenc:CipherReference URI="file:///etc/passwd"/><xenc:CipherValue>', "elsewhere"),
        ("<xenc:EncryptedKey>", '<ds:RetrievalMethod URI="http://127.0.0.1/"/><xenc:EncryptedKey>', "elsewhere"),
        ("</xenc:EncryptedData>", "</xenc:EncryptedData><xenc:EncryptedData xmlns:xenc='@'/>", "not one cipher"),
    ],
)
def test_a_cipher_that_leads_elsewhere_is_refused(
    start: Start, provider: SamlProvider, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    def make(answer: Answer) -> str:
        text = encrypted(answer.signed_assertion(), GCM, tmp_path)
        assert old in text
        return text.replace(old, new.replace("@", "http://www.w3.org/2001/04/xmlenc#"), 1)

    assert reason in refused_cipher(start, provider, make)


def test_two_assertions_in_one_cipher_are_refused(start: Start, provider: SamlProvider, tmp_path: Path) -> None:
    def make(answer: Answer) -> str:
        outer = answer.assertion(subject="root", identifier="_evil")
        nested = outer.replace("</saml:Assertion>", answer.signed_assertion() + "</saml:Assertion>")
        return encrypted(nested, GCM, tmp_path)

    assert refused_cipher(start, provider, make) == "not one assertion"


def test_the_same_person_is_the_same_user_under_another_name(start: Start, provider: SamlProvider) -> None:
    server = start()
    first = who(server, tokens(server, provider))
    provider.attributes = {"mail": ["ada@example.com"]}
    second = who(server, tokens(server, provider))
    assert second["sub"] == first["sub"]
    assert second["username"] == "corp/ada@example.com"
    provider.attributes = {}
    assert who(server, tokens(server, provider))["username"] == "corp/ada-7"


def test_the_same_subject_of_another_provider_is_another_user(start: Start, provider: SamlProvider) -> None:
    server = start()
    first = who(server, tokens(server, provider))["sub"]
    provider.metadata_change = lambda text: text.replace(provider.entity_id, "urn:example:another")
    again = start()
    second = who(again, tokens(again, provider, issuer="urn:example:another"))["sub"]
    assert first != second


def test_an_attribute_can_say_who_somebody_is(start: Start, provider: SamlProvider) -> None:
    settings = {"subject_claim": "employee", "name_id_format": "transient", "username_claim": "display name"}
    server = start(**settings)
    provider.attributes = {"employee": ["e-17"], "display name": ["Ada L."]}
    first = who(server, tokens(server, provider, name_format=TRANSIENT, subject="one"))
    second = who(server, tokens(server, provider, name_format=TRANSIENT, subject="two"))
    assert first["sub"] == second["sub"]
    assert first["username"] == "corp/Ada L."
    for values in ([], ["e-17", "e-18"], ["<x>e-17</x>"]):
        provider.attributes = {"employee": values}
        assert try_to_sign_in(server, provider, name_format=TRANSIENT).status_code == 403
        assert server.events("user.login")[-1]["reason"] == "corp failure: saml subject attribute"


def test_other_forms_of_names_are_taken_where_the_settings_ask_for_them(start: Start, provider: SamlProvider) -> None:
    server = start(name_id_format="email")
    assert try_to_sign_in(server, provider, name_format=EMAIL, subject="ada@example.com").status_code == 303
    assert try_to_sign_in(server, provider).status_code == 403
    server = start(name_id_format="unspecified")
    assert try_to_sign_in(server, provider, name_format=EMAIL).status_code == 303
    assert try_to_sign_in(server, provider, name_format=UNSPECIFIED).status_code == 303
    assert try_to_sign_in(server, provider, name_format=TRANSIENT).status_code == 403
    assert server.events("user.login")[-1]["reason"] == "corp failure: saml transient NameID"


def test_who_lacks_a_required_claim_stays_out(start: Start, provider: SamlProvider) -> None:
    server = start(groups_claim="Role", required_claims={"Role": ["engineering"]})
    assert try_to_sign_in(server, provider).status_code == 403
    provider.attributes["Role"] = ["sales", "engineering"]
    assert try_to_sign_in(server, provider).status_code == 303


def test_a_name_of_nobody_is_refused(start: Start, provider: SamlProvider) -> None:
    server = start()
    for subject in ("", "a" * 256, "ada\n"):
        assert try_to_sign_in(server, provider, subject=subject).status_code == 403


def test_after_the_recheck_people_sign_in_again(start: Start, provider: SamlProvider, clock: Clock) -> None:
    server = start(recheck_seconds=600)
    person = newcomer(server)
    issued = tokens(server, provider, person)
    second = server.refresh(issued["client_id"], issued["refresh_token"])
    assert second.status_code == 200
    clock.ahead = 601
    third = server.refresh(issued["client_id"], second.json()["refresh_token"])
    assert (third.status_code, third.json()["error"]) == (400, "invalid_grant")
    assert "Sign in" in person.get(f"{server.issuer}/account").text


def test_no_session_here_outlasts_the_one_there(start: Start, provider: SamlProvider, clock: Clock) -> None:
    server = start(recheck_seconds=3600)
    issued = tokens(server, provider, session_ends=300)
    second = server.refresh(issued["client_id"], issued["refresh_token"])
    assert second.status_code == 200
    clock.ahead = 302
    third = server.refresh(issued["client_id"], second.json()["refresh_token"])
    assert third.json()["error_description"] == "the user must sign in again"


def test_new_keys_of_the_provider_are_fetched(start: Start, provider: SamlProvider, clock: Clock) -> None:
    server = start()
    tokens(server, provider)
    new = SigningKey()
    clock.ahead = 11
    assert try_to_sign_in(server, provider, key=new).status_code == 403
    provider.published = [provider.key, new]
    clock.ahead = 22
    assert try_to_sign_in(server, provider, key=new).status_code == 303
    assert try_to_sign_in(server, provider).status_code == 303
    fetched = sum(provider.fetches.values())
    assert try_to_sign_in(server, provider, key=SigningKey()).status_code == 403
    assert sum(provider.fetches.values()) == fetched


def test_metadata_is_kept_for_as_long_as_it_says(start: Start, provider: SamlProvider, clock: Clock) -> None:
    provider.metadata_attributes = ' cacheDuration="PT10M"'
    server = start()
    for ahead, fetches in ((0, 1), (500, 1), (601, 2), (1100, 2)):
        clock.ahead = ahead
        assert begin(server).status_code == 303
        assert sum(provider.fetches.values()) == fetches


def test_while_the_provider_is_away_its_last_metadata_holds_until_it_expires(
    start: Start, provider: SamlProvider, clock: Clock
) -> None:
    provider.metadata_attributes = f' validUntil="{instant(7200)}"'
    server = start()
    assert begin(server).status_code == 303
    provider.metadata_status, clock.ahead = 503, 3700
    assert begin(server).status_code == 303
    clock.ahead = 7300
    page = begin(server)
    assert page.status_code == 503
    assert "Corp does not answer at the moment." in page.text


def test_an_unreachable_provider_is_named_and_another_try_works(start: Start, provider: SamlProvider) -> None:
    provider.metadata_status = 404
    server = start()
    page = begin(server)
    assert page.status_code == 503
    assert "Corp does not answer at the moment. Try again in a minute." in page.text
    assert server.metrics.logins.labels("corp", "unavailable")._value.get() == 1
    provider.metadata_status = 200
    assert begin(server).status_code == 303


def test_expired_metadata_is_not_used_and_the_page_says_so(
    start: Start, provider: SamlProvider, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.metadata_attributes = f' validUntil="{instant(-1)}"'
    server = start()
    page = begin(server)
    assert page.status_code == 503
    assert "Corp cannot be used at the moment: its metadata has expired." in page.text
    provider.metadata_attributes = f' validUntil="{instant(60)}"'
    clock.ahead = 11
    assert begin(server).status_code == 303


UNUSABLE: dict[str, Callable[[str], str]] = {
    "not XML": lambda _: "<html>",
    "an entity": lambda text: '<!DOCTYPE x [<!ENTITY e "x">]>' + text,
    "no provider": lambda text: text.replace("IDPSSODescriptor", "SPSSODescriptor"),
    "another document": lambda _: "<x/>",
    "no redirect": lambda text: text.replace("HTTP-Redirect", "HTTP-Artifact"),
    "plain http": lambda text: text.replace("http://127.0.0.1", "http://idp.example"),
    "a user in the URL": lambda text: text.replace("http://127.0.0.1", "http://u:p@127.0.0.1"),
    "a space in the URL": lambda text: text.replace("/sso", "/s so"),
    "no key": lambda text: text.replace('use="signing"', 'use="encryption"'),
    "a certificate that is none": lambda text: text.replace("MII", "NOO"),
    "a time that is none": lambda text: text.replace(" entityID=", ' validUntil="tomorrow" entityID='),
    "a duration that is none": lambda text: text.replace(" entityID=", ' cacheDuration="P1Y" entityID='),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_metadata_that_cannot_be_used_is_not(start: Start, provider: SamlProvider, case: str) -> None:
    provider.metadata_change = UNUSABLE[case]
    page = begin(start())
    assert page.status_code == 503
    assert "Corp cannot be used at the moment: its metadata cannot be used." in page.text


def test_metadata_that_is_too_large_is_not_read(start: Start, provider: SamlProvider) -> None:
    provider.metadata_change = lambda text: text + " " * 2 * 1024 * 1024
    assert begin(start()).status_code == 503


def federation(text: str) -> str:
    other = text.replace("/entity", "/other")
    return f'<md:EntitiesDescriptor xmlns:md="{MD}">{text}{other.replace("_m", "_n")}</md:EntitiesDescriptor>'


def test_of_a_federation_one_is_named(start: Start, provider: SamlProvider) -> None:
    provider.metadata_change = federation
    assert begin(start()).status_code == 503
    server = start(idp_entity_id=provider.entity_id)
    assert try_to_sign_in(server, provider).status_code == 303


def test_metadata_can_come_from_a_file(start: Start, provider: SamlProvider, tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "metadata.xml"
    server = start(metadata_url=None, metadata_file=file)
    assert begin(server).status_code == 503
    file.write_text(provider.metadata())
    clock.ahead = 11
    assert try_to_sign_in(server, provider).status_code == 303
    file.write_text(" " * 2 * 1024 * 1024 + " ")
    clock.ahead = 100
    assert begin(server).status_code == 303
    assert not provider.fetches


def test_metadata_can_need_a_signature(start: Start, provider: SamlProvider, tmp_path: Path, clock: Clock) -> None:
    trusted, file = SigningKey(), tmp_path / "trusted.pem"
    file.write_text(trusted.certificate_pem)
    server = start(metadata_certificate_file=file)
    assert begin(server).status_code == 503

    def signed(by: SigningKey, change: Callable[[str], str] = str) -> Callable[[str], str]:
        def document(text: str) -> str:
            head, comment, rest = text.partition("<!-- a comment -->")
            return change(sign(head + signature_template("_m") + comment + rest, "_m", by))

        return document

    provider.metadata_change = signed(SigningKey())
    clock.ahead = 11
    assert begin(server).status_code == 503
    provider.metadata_change = signed(trusted, lambda text: text.replace("/sso", "/evil"))
    clock.ahead = 22
    assert begin(server).status_code == 503
    provider.metadata_change = signed(trusted)
    clock.ahead = 33
    assert begin(server).status_code == 303


def test_many_sign_ins_wait_for_one_fetch(start: Start, provider: SamlProvider) -> None:
    server = start()
    for _ in range(3):
        assert begin(server).status_code == 303
    assert sum(provider.fetches.values()) == 1


def test_a_query_in_the_providers_address_stays(start: Start, provider: SamlProvider) -> None:
    provider.metadata_change = lambda text: text.replace("/sso", "/sso?idpid=a&amp;b=c")
    location = begin(start()).headers["location"]
    assert location.startswith(f"{provider.origin}/sso?{urlencode({'idpid': 'a', 'b': 'c'})}&SAMLRequest=")
