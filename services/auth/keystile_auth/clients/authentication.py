"""Client authentication at the token, revocation and introspection endpoints (RFC 6749 section 2.3, RFC 7523)."""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keystile_auth.clients.assertion import AssertionVerifier, KeyOwner
from keystile_auth.clients.client import Client
from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.errors import OAuthError
from keystile_auth.tokens.resources import Resource

if TYPE_CHECKING:
    from keystile_auth.clients.service_account import ServiceAccountTokens

_REMEMBERED = 1_000
"""Headers with a right secret; a resource has one, or a few spellings of it."""
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


class Provable(KeyOwner, Protocol):
    """A program that can prove itself, by the one of these that is not None."""

    @property
    def secret_hash(self) -> str | None: ...  # noqa: D102
    @property
    def service_account(self) -> str | None: ...  # noqa: D102


class Proofs:
    """Checks what a program proves itself by, whatever it is.

    Args:
        assertions: checks what is signed with a key of its own.
        service_accounts: checks the tokens of the cluster's pods; None outside of clusters.
    """

    def __init__(self, assertions: AssertionVerifier, service_accounts: "ServiceAccountTokens | None") -> None:
        self._assertions = assertions
        self._service_accounts = service_accounts

    async def check(self, presented: PresentedCredentials, program: Provable) -> None:
        """Return when `presented` proves `program`.

        Raises:
            OAuthError: `invalid_client`: it does not.
            StoreUnavailableError: the store or the cluster's keys cannot be had.
        """
        if presented.assertion is None:
            if not _matches(presented.secret, program.secret_hash):
                raise OAuthError("invalid_client", "the client secret is wrong")
        elif program.service_account and self._service_accounts:
            await self._service_accounts.verify(presented.assertion, program.service_account)
        elif program.jwks is not None or program.jwks_uri is not None:
            await self._assertions.verify(presented.assertion, program)
        else:
            raise OAuthError("invalid_client", "a client assertion is not how it proves itself")


class ClientAuthenticator:
    """Says which client a request comes from."""

    def __init__(self, directory: ClientDirectory, proofs: Proofs) -> None:
        self._directory = directory
        self._proofs = proofs

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
        if presented.method != "none":
            await self._proofs.check(presented, client)
        return client


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCredentials:
    """What a resource server proves itself by at the introspection endpoint; `id` is its name."""

    id: str
    secret_hash: str | None = None
    service_account: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None


class ResourceAuthenticator:
    """Says which resource server asks at the introspection endpoint.

    Args:
        resources: all there are.
        credentials: of each of them.
        proofs: checks what is presented.
    """

    def __init__(
        self, resources: Mapping[str, Resource], credentials: Iterable[ResourceCredentials], proofs: Proofs
    ) -> None:
        self._resources = resources
        self._credentials = {each.id: each for each in credentials}
        self._proofs = proofs
        self._proved: OrderedDict[bytes, tuple[str, Resource]] = OrderedDict()

    def proved(self, authorization: bytes) -> Resource | None:
        """The resource that this Authorization header proved before, if its secret is still the same; else None.

        Args:
            authorization: the header's value, the only one of its request.
        """
        # Found by its digest: how much of a header is right does not show in the time that takes.
        secret_hash, resource = self._proved.get(hashlib.sha256(authorization).digest(), ("", None))
        if resource is None:
            return None
        current = self._credentials[resource.name].secret_hash or ""
        return resource if secrets.compare_digest(secret_hash, current) and current else None

    def remember(self, authorization: bytes, resource: Resource) -> None:
        """Keep that this header, alone, proved a resource by its secret; no other proof may be used twice."""
        secret_hash = self._credentials[resource.name].secret_hash
        if secret_hash is None:
            return
        self._proved[hashlib.sha256(authorization).digest()] = secret_hash, resource
        if len(self._proved) > _REMEMBERED:
            self._proved.popitem(last=False)

    async def authenticate(self, presented: PresentedCredentials) -> Resource:
        """The resource that `presented` proves.

        Raises:
            OAuthError: `invalid_client`, alike for an unknown name and a wrong secret.
            StoreUnavailableError: the store or the cluster's keys cannot be had.
        """
        expected = self._credentials.get(presented.client_id)
        if expected is None or presented.assertion is None:
            if not _matches(presented.secret, expected.secret_hash if expected else None):
                raise OAuthError("invalid_client", "the resource's name or secret is wrong")
        else:
            await self._proofs.check(presented, expected)
        return self._resources[presented.client_id]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _matches(secret: str | None, expected: str | None) -> bool:
    # Compared even where there is nothing to compare with, so that time tells nothing.
    return secrets.compare_digest(_digest(secret or ""), expected or "") and bool(secret)
