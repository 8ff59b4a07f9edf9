"""Requests to sign in: an AuthnRequest, sent by redirect (SAML bindings, section 3.4)."""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from saml2 import BINDING_HTTP_POST, saml, samlp
from saml2.pack import http_redirect_message
from saml2.sigver import RSACrypto
from saml2.xmldsig import SIG_RSA_SHA256


def authentication_request(
    *,
    identifier: str,
    entity_id: str,
    recipient: str,
    destination: str,
    name_id_format: str | None,
    other_user: bool,
    now: float,
) -> str:
    """An AuthnRequest.

    Args:
        identifier: its ID, which the answer repeats.
        entity_id: ours.
        recipient: where the answer is to be posted to.
        destination: where the request goes.
        name_id_format: a URI; None leaves it to the identity provider.
        other_user: whether the person is to be asked anew, though signed in there.
        now: Unix seconds.
    """
    request = samlp.AuthnRequest(
        id=identifier,
        version="2.0",
        issue_instant=datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        destination=destination,
        assertion_consumer_service_url=recipient,
        protocol_binding=BINDING_HTTP_POST,
        force_authn="true" if other_user else None,
        issuer=saml.Issuer(text=entity_id),
        name_id_policy=samlp.NameIDPolicy(format=name_id_format, allow_create="true") if name_id_format else None,
    )
    return str(request)


def redirect_url(request: str, destination: str, relay_state: str, key: RSAPrivateKey | None) -> str:
    """Where to send the browser with a request; `key` signs it."""
    signing = {"sigalg": SIG_RSA_SHA256, "sign": True, "backend": RSACrypto(key)} if key else {}
    message = http_redirect_message(request, destination, relay_state, **signing)
    return str(dict(message["headers"])["Location"])
