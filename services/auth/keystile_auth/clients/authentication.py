"""Client authentication at the token, revocation and introspection endpoints (RFC 6749 section 2.3, RFC 7523)."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from keystile_auth.clients.assertion import AssertionVerifier
from keystile_auth.clients.client import Client
from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.clients.service_account import ServiceAccountTokens
from keystile_auth.errors import OAuthError
from keystile_auth.tokens.resources import Resource

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class PresentedCredentials:
    """What a request brings to say who sends it; nothing of it is checked yet.

    `method` is the authentication method that its shape amounts to.
    """

    method: str
    client_id: str
    secret: str | None = None
    assertion: str | None = None

    def __repr__(self) -> str:
        return f"PresentedCredentials(method={self.method!r}, client_id={self.client_id!r})"


class ClientAuthenticator:
    """Says which client a request comes from."""

    def __init__(
        self,
        directory: ClientDirectory,
        assertions: AssertionVerifier,
        service_accounts: ServiceAccountTokens | None,
    ) -> None:
        self._directory = directory
        self._assertions = assertions
        self._service_accounts = service_accounts

    async def authenticate(self, presented: PresentedCredentials, ip: str) -> Client:
        """The client that `presented` proves.

        Raises:
            OAuthError: `invalid_client`, with the same sentence for an unknown client as the client needs to
                register again, and one sentence for every kind of wrong proof.
        """
        client = await self._directory.find(presented.client_id, ip)
        # Basic and post differ only in where the same secret stands; claude.ai registers for one and libraries use
        # the other. Everything else must be what was registered, above all: no secret where one is due.
        allowed = set(client.auth_methods)
        if allowed & {"client_secret_basic", "client_secret_post"}:
            allowed |= {"client_secret_basic", "client_secret_post"}
        if presented.method not in allowed:
            raise OAuthError(
                "invalid_client",
                f"this client authenticates with {' or '.join(client.auth_methods)}, not {presented.method}",
            )
        if presented.method == "private_key_jwt" and client.service_account and self._service_accounts:
            await self._service_accounts.verify(presented.assertion or "", client.service_account)
        elif presented.method == "private_key_jwt":
            await self._assertions.verify(presented.assertion or "", client)
        elif presented.method != "none" and not _matches(presented.secret, client.secret_hash):
            raise OAuthError("invalid_client", "the client secret is wrong")
        return client


@dataclass(frozen=True, slots=True)
class ResourceCredentials:
    """How a resource server proves which one it is: a shared secret's hash, or a service account's name."""

    secret_hash: str | None = None
    service_account: str | None = None

    @classmethod
    def of(cls, secret: str | None, service_account: str | None) -> "ResourceCredentials":
        """From what the settings say."""
        return cls(_digest(secret) if secret else None, service_account)


class ResourceAuthenticator:
    """Says which resource server asks at the introspection endpoint.

    Args:
        resources: all there are.
        credentials: by the resource's name.
        service_accounts: checks the tokens of the cluster's pods; None outside of clusters.
    """

    def __init__(
        self,
        resources: Mapping[str, Resource],
        credentials: Mapping[str, ResourceCredentials],
        service_accounts: ServiceAccountTokens | None,
    ) -> None:
        self._resources = resources
        self._credentials = credentials
        self._service_accounts = service_accounts

    async def authenticate(self, presented: PresentedCredentials) -> Resource:
        """The resource that `presented` proves.

        Raises:
            OAuthError: `invalid_client`, alike for an unknown name and a wrong secret.
            StoreUnavailableError: the cluster's keys cannot be had.
        """
        resource = self._resources.get(presented.client_id)
        expected = self._credentials.get(presented.client_id, ResourceCredentials())
        if presented.assertion and expected.service_account and self._service_accounts:
            await self._service_accounts.verify(presented.assertion, expected.service_account)
        elif not _matches(presented.secret, expected.secret_hash):
            raise OAuthError("invalid_client", "the resource's name or secret is wrong")
        if resource is None:
            raise OAuthError("invalid_client", "the resource's name or secret is wrong")
        return resource


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _matches(secret: str | None, expected: str | None) -> bool:
    # Compared even where there is nothing to compare with, so that time tells nothing.
    return secrets.compare_digest(_digest(secret or ""), expected or "") and bool(secret)
