"""Authorization requests: what /authorize is asked, checked (RFC 6749 section 4.1.1, RFC 7636, RFC 8707)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keystile_auth.clients import redirect_uri as redirect_uris
from keystile_auth.clients.client import Client
from keystile_auth.errors import OAuthError
from keystile_auth.tokens.resources import Resource, Resources

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_STATE_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that may be put to a person. It exists only once client, redirect URI and all else are valid."""

    client: Client
    redirect_uri: str
    state: str | None
    resource: Resource
    scopes: tuple[str, ...]
    code_challenge: str


@dataclass(frozen=True, slots=True)
class ReturnAddress:
    """Where an answer may be sent: the redirect URI is the client's own, so errors may go there too."""

    redirect_uri: str
    state: str | None


def return_address(parameters: Mapping[str, str], client: Client) -> ReturnAddress:
    """The address that both success and errors go to.

    Raises:
        OAuthError: the redirect URI is missing or not the client's. It must be shown to the user and never
            sent on (RFC 6749 section 4.1.2.1).
    """
    requested = parameters.get("redirect_uri")
    if requested is None:
        if len(client.redirect_uris) != 1:
            raise OAuthError("invalid_request", "redirect_uri is required, since the client has several")
        requested = client.redirect_uris[0]
    elif not redirect_uris.match(requested, client.redirect_uris):
        raise OAuthError("invalid_request", "redirect_uri is not one that the client registered")
    return ReturnAddress(requested, parameters.get("state"))


def check(
    parameters: Mapping[str, str], client: Client, address: ReturnAddress, resources: Resources
) -> AuthorizationRequest:
    """Everything else about the request.

    Raises:
        OAuthError: with the code to send to `address`.
    """
    if address.state is not None and len(address.state) > MAX_STATE_CHARACTERS:
        raise OAuthError("invalid_request", f"state must be at most {MAX_STATE_CHARACTERS} characters")
    if parameters.get("response_type") != "code":
        code = "unsupported_response_type" if "response_type" in parameters else "invalid_request"
        raise OAuthError(code, "response_type must be code")
    if "authorization_code" not in client.grant_types or not client.redirect_uris:
        raise OAuthError("unauthorized_client", "the client may not use the authorization code grant")
    for unsupported in ("request", "request_uri"):
        if unsupported in parameters:
            raise OAuthError(f"{unsupported}_not_supported", f"{unsupported} is not supported")
    if parameters.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    challenge = parameters.get("code_challenge", "")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is required: 43 base64url characters")
    resource = resources.require(parameters.get("resource"))
    if client.resources is not None and resource.uri not in client.resources:
        raise OAuthError("invalid_target", "the client may not ask for this resource")
    scopes = resource.select_scopes(parameters.get("scope"))
    if client.scopes is not None and not set(scopes) <= set(client.scopes):
        raise OAuthError("invalid_scope", "the client may not ask for this scope")
    return AuthorizationRequest(client, address.redirect_uri, address.state, resource, scopes, challenge)
