"""The refresh token grant: rotation, and what happens when an old one comes back (RFC 9700 section 4.14)."""

from typing import NamedTuple

from keystile_auth.clients.client import Client
from keystile_auth.errors import OAuthError
from keystile_auth.grants.authorization_code import granted_resource, granted_scopes
from keystile_auth.grants.presented import Presented, look_up
from keystile_auth.grants.resource_owner import ResourceOwners
from keystile_auth.grants.token_response import TokenResponse
from keystile_auth.identity.permissions import grantable
from keystile_auth.settings import TokenSettings
from keystile_auth.store.grant import Grant
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.held_grants import HeldGrants
from keystile_auth.store.users import User
from keystile_auth.tokens.access_token import AccessTokens, Subject
from keystile_auth.tokens.opaque import RefreshToken, RefreshTokens
from keystile_auth.tokens.resources import Resource, Resources, parse_scope


class RefreshTokenReusedError(OAuthError):
    """A rotated refresh token came back after the grace; the grant was ended with all its tokens."""

    def __init__(self, grant: Grant, *, is_durable: bool = True) -> None:
        super().__init__(
            "invalid_grant",
            "the refresh token was used before; every token of this grant is revoked, sign in again",
        )
        if not is_durable:
            self.withhold()
        self.grant = grant


class RefreshRequest(NamedTuple):
    """A token request of this grant type. `attempt` is unique to the HTTP request.

    `refresh_token` is what `find` has found.
    """

    refresh_token: Presented[RefreshToken] | None
    scope: str | None
    resource: str | None
    attempt: str

    def __repr__(self) -> str:
        return "RefreshRequest(…)"


class RefreshTokenGrant:
    """Rotates refresh tokens."""

    def __init__(
        self,
        store: GrantStore,
        held: HeldGrants,
        users: ResourceOwners,
        resources: Resources,
        tokens: RefreshTokens,
        access_tokens: AccessTokens,
        lifetimes: TokenSettings,
    ) -> None:
        self._store = store
        self._held = held
        self._users = users
        self._resources = resources
        self._tokens = tokens
        self._access_tokens = access_tokens
        self._lifetimes = lifetimes

    async def find(self, refresh_token: str) -> Presented[RefreshToken] | None:
        """What a refresh token stands for, as `look_up`."""
        return await look_up(self._tokens.parse(refresh_token), self._held)

    async def rotate(self, client: Client, request: RefreshRequest) -> TokenResponse:
        """Give a new access token and the refresh token's successor.

        Raises:
            RefreshTokenReusedError: it was rotated before, longer ago than the grace.
            UserGoneError: the user's account is gone where it was.
            OAuthError: `invalid_grant`, `invalid_scope`, `invalid_target` or `unauthorized_client`.
            IdentityUnavailableError: nobody can say whether the account is still there.
        """
        if "refresh_token" not in client.grant_types:
            raise OAuthError("unauthorized_client", "the client may not use refresh tokens")
        if request.refresh_token is None or not request.refresh_token.held.grant.has_refresh_token:
            raise _invalid("the refresh token is unknown or has expired")
        token, held = request.refresh_token.token, request.refresh_token.held
        grant = held.grant
        if grant.client_id != client.id:
            raise _invalid("the refresh token was issued to another client")
        if not grant.is_live:
            raise _invalid("the grant has ended; sign in again")
        resource = granted_resource(self._resources, request.resource, grant)
        user = await self._users.of(held)
        scope = self._scope(request.scope, grant, resource, user)
        subject = Subject(user.sub, user.username, client.id, grantable(resource, user))
        await self._store.relist(grant, self._lifetimes.refresh_token_seconds)
        successor = self._tokens.successor(token)
        access = await self._access_tokens.prepare(self._tokens.access_token(token), subject, resource, scope)
        presented = token.hash
        outcome = await self._store.rotate(
            grant.id,
            presented,
            token.generation,
            request.attempt,
            successor.hash,
            access.stored,
            scope,
            self._lifetimes.refresh_token_seconds,
            self._lifetimes.refresh_grace_seconds,
        )
        if outcome.word == "reused":
            raise RefreshTokenReusedError(grant, is_durable=outcome.is_durable)
        if outcome.word not in {"rotated", "repeated", "repaired"}:
            raise _invalid("the grant has ended; sign in again")
        # Behind all that can fail: until then the same request gets the same successor, however late it comes.
        grace = self._lifetimes.refresh_grace_seconds
        if not await self._store.answer_refresh_token(grant.id, request.attempt, presented, grace):
            raise _invalid("the grant has ended; sign in again")
        return TokenResponse(
            access_token=access.text(outcome),
            expires_in=outcome.seconds,
            scope=outcome.scope,
            refresh_token=successor.text,
            sub=grant.sub,
            resource=resource.uri,
            grant_id=grant.id,
            event="repaired" if outcome.word == "repaired" else "refreshed",
        )

    def _scope(self, requested: str | None, grant: Grant, resource: Resource, user: User) -> str:
        granted = granted_scopes(resource, grant, user)
        if not granted and resource.user_scopes:
            raise _invalid("the user may no longer have any scope of this grant")
        if not requested:
            return " ".join(granted)
        scopes = parse_scope(requested)
        if not set(scopes) <= set(granted):
            raise OAuthError("invalid_scope", "a refresh cannot widen the scope; send the user to authorize again")
        return " ".join(scopes)


def _invalid(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
