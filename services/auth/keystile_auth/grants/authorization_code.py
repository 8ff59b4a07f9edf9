"""The authorization code grant with PKCE (RFC 6749 section 4.1, RFC 7636, OAuth 2.1)."""

import hashlib
import hmac
import re
from typing import NamedTuple

from keystile_auth.clients.client import Client, Source
from keystile_auth.errors import OAuthError
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.grants.presented import Presented, look_up
from keystile_auth.grants.resource_owner import ResourceOwners
from keystile_auth.grants.token_response import TokenResponse
from keystile_auth.identity.permissions import grantable, permitted_scopes
from keystile_auth.settings import TokenSettings
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grant import Code, Grant
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.held_grants import HeldGrants
from keystile_auth.store.users import User
from keystile_auth.tokens import opaque
from keystile_auth.tokens.access_token import AccessTokens, Subject
from keystile_auth.tokens.resources import Resource, Resources
from keystile_common import base64url

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class CodeReusedError(OAuthError):
    """A code came a second time; its grant was ended (RFC 6749 section 4.1.2)."""

    def __init__(self, grant: Grant, *, is_durable: bool = True) -> None:
        super().__init__("invalid_grant", "the code was used before; every token it gave is revoked")
        if not is_durable:
            self.withhold()
        self.grant = grant


class CodeRequest(NamedTuple):
    """A token request of this grant type. `attempt` is unique to the HTTP request.

    `code` is what `find` has found.
    """

    code: Presented[opaque.Token] | None
    code_verifier: str | None
    redirect_uri: str | None
    resource: str | None
    attempt: str

    def __repr__(self) -> str:
        return "CodeRequest(…)"


class AuthorizationCodeGrant:
    """Issues codes to browsers and redeems them for clients."""

    def __init__(
        self,
        store: GrantStore,
        held: HeldGrants,
        clients: ClientStore,
        users: ResourceOwners,
        resources: Resources,
        refresh_tokens: opaque.RefreshTokens,
        access_tokens: AccessTokens,
        lifetimes: TokenSettings,
    ) -> None:
        self._store = store
        self._held = held
        self._clients = clients
        self._users = users
        self._resources = resources
        self._refresh_tokens = refresh_tokens
        self._access_tokens = access_tokens
        self._lifetimes = lifetimes

    async def issue(self, request: AuthorizationRequest, user: User) -> tuple[str, str]:
        """Make a code for what `user` has consented to.

        Returns:
            The code and the id of its grant.

        Raises:
            OAuthError: `invalid_scope`, for what the user may not be granted.
        """
        if not set(request.scopes) <= set(permitted_scopes(request.resource, user)):
            raise OAuthError("invalid_scope", "the user may not be granted this scope")
        grant_id = opaque.new_grant_id()
        code = opaque.new_code(grant_id)
        if request.client.source is Source.REGISTRATION:
            await self._clients.keep(request.client.id)
        await self._store.create(
            grant_id,
            sub=user.sub,
            client_id=request.client.id,
            resource=request.resource.uri,
            scopes=request.scopes,
            code=Code(code.hash, request.code_challenge, request.redirect_uri, redeemed=False),
            code_seconds=self._lifetimes.code_seconds,
            index_seconds=self._lifetimes.refresh_token_seconds,
        )
        return code.text, grant_id

    async def find(self, code: str) -> Presented[opaque.Token] | None:
        """What a code stands for, as `look_up`."""
        return await look_up(opaque.parse_code(code), self._held)

    async def redeem(self, client: Client, request: CodeRequest) -> TokenResponse:
        """Give the tokens that a code stands for, once.

        Raises:
            CodeReusedError: it was given before.
            UserGoneError: the user's account is gone where it was.
            OAuthError: `invalid_grant`, `invalid_request`, `invalid_target` or `unauthorized_client`.
        """
        if "authorization_code" not in client.grant_types:
            raise OAuthError("unauthorized_client", "the client may not use the authorization code grant")
        if request.code is None:
            raise _invalid("the code is unknown or has expired")
        code_hash, held = request.code.token.hash, request.code.held
        grant = held.grant
        if not hmac.compare_digest(grant.code.hash, code_hash):
            raise _invalid("the code is unknown or has expired")
        self._check_binding(grant, client, request)
        resource = granted_resource(self._resources, request.resource, grant)
        user = await self._users.of(held)
        scope = " ".join(granted_scopes(resource, grant, user))
        if not scope and resource.user_scopes:
            raise _invalid("the user may not have any scope of this grant")
        subject = Subject(user.sub, user.username, client.id, grantable(resource, user))
        access = await self._access_tokens.prepare(opaque.new_access_token(grant.id), subject, resource, scope)
        refresh = self._refresh_tokens.first(grant.id) if "refresh_token" in client.grant_types else None
        seconds = self._lifetimes.refresh_token_seconds if refresh else self._lifetimes.access_token_seconds
        outcome = await self._store.redeem(
            grant.id, code_hash, request.attempt, access.stored, scope, refresh.hash if refresh else "", seconds
        )
        if outcome.word == "reused":
            raise CodeReusedError(grant, is_durable=outcome.is_durable)
        if outcome.word != "redeemed" or not await self._store.answer_code(grant.id, request.attempt):
            raise _invalid("the code is unknown or has expired")
        return TokenResponse(
            access_token=access.text(outcome),
            expires_in=outcome.seconds,
            scope=scope,
            refresh_token=refresh.text if refresh else None,
            sub=user.sub,
            resource=resource.uri,
            grant_id=grant.id,
        )

    def _check_binding(self, grant: Grant, client: Client, request: CodeRequest) -> None:
        if grant.client_id != client.id:
            raise _invalid("the code was issued to another client")
        if request.redirect_uri is not None and request.redirect_uri != grant.code.redirect_uri:
            raise _invalid("redirect_uri is not the one of the authorization request")
        if request.code_verifier is None:
            raise _invalid("code_verifier is required")
        if not _VERIFIER.fullmatch(request.code_verifier):
            raise _invalid("code_verifier must be 43 to 128 characters of A-Z a-z 0-9 - . _ ~")
        digest = hashlib.sha256(request.code_verifier.encode()).digest()
        if not hmac.compare_digest(base64url.encode(digest), grant.code.challenge):
            raise _invalid("code_verifier does not match the code_challenge")


def granted_resource(resources: Resources, requested: str | None, grant: Grant) -> Resource:
    """The resource a grant is for, which a token request may name again (RFC 8707 section 2.2).

    Raises:
        OAuthError: `invalid_target`: the request names another one, or it is no longer served.
    """
    resource = resources.find(grant.resource)
    if resource is None:
        raise OAuthError("invalid_target", "the resource is no longer served")
    if requested is not None and resources.find(requested) is not resource:
        raise OAuthError("invalid_target", "resource is not the one that was granted")
    return resource


def granted_scopes(resource: Resource, grant: Grant, user: User) -> tuple[str, ...]:
    """The scopes of a grant, but for those its resource or its user no longer has: they go into no new token."""
    permitted = permitted_scopes(resource, user)
    return tuple(scope for scope in grant.scopes if scope in permitted)


def _invalid(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
