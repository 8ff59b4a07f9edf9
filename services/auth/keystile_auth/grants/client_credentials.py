"""The client credentials grant: a client for itself (RFC 6749 section 4.4)."""

from keystile_auth.clients.client import Client, Source
from keystile_auth.errors import OAuthError
from keystile_auth.grants.token_response import TokenResponse
from keystile_auth.store.grants import GrantStore
from keystile_auth.tokens import opaque
from keystile_auth.tokens.access_token import AccessTokens, Subject
from keystile_auth.tokens.resources import Resource, Resources


class ClientCredentialsGrant:
    """Issues access tokens to clients that an operator has set up for it. No refresh token (section 4.4.3)."""

    def __init__(self, store: GrantStore, resources: Resources, access_tokens: AccessTokens) -> None:
        self._store = store
        self._resources = resources
        self._access_tokens = access_tokens

    async def issue(self, client: Client, resource: str | None, scope: str | None) -> TokenResponse:
        """Give an access token for one of the client's own resources.

        Args:
            client: authenticated.
            resource: the resource indicator.
            scope: space-delimited; all the client has for this resource when None.

        Raises:
            OAuthError: `unauthorized_client`, `invalid_target` or `invalid_scope`.
        """
        if (
            "client_credentials" not in client.grant_types
            or not client.is_confidential
            # Nobody stands behind a client that registered itself.
            or client.source is not Source.OPERATOR
        ):
            raise OAuthError("unauthorized_client", "the client may not use the client credentials grant")
        target = self._resources.require(resource)
        if target.uri not in (client.resources or ()):
            raise OAuthError("invalid_target", "the client may not ask for this resource")
        own = tuple(each for each in client.scopes or () if each in target.scopes)
        scopes = " ".join(_scopes(own, target, scope))
        grantable = " ".join(own) if len(own) < len(target.scopes) else None
        grant_id = opaque.new_grant_id()
        access = await self._access_tokens.prepare(
            opaque.new_access_token(grant_id), Subject(client.id, None, client.id, grantable), target, scopes
        )
        outcome = await self._store.issue(grant_id, client.id, access.stored, scopes)
        return TokenResponse(
            access_token=access.text(outcome),
            expires_in=outcome.seconds,
            scope=scopes,
            refresh_token=None,
            sub=client.id,
            resource=target.uri,
            grant_id=grant_id,
        )


def _scopes(own: tuple[str, ...], resource: Resource, requested: str | None) -> tuple[str, ...]:
    if not requested:
        return own
    scopes = resource.select_scopes(requested)
    if not set(scopes) <= set(own):
        raise OAuthError("invalid_scope", "the client may not ask for this scope")
    return scopes
