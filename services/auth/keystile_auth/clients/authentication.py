"""Client authentication at the token, revocation and introspection endpoints (RFC 6749 section 2.3, RFC 7523)."""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from keystile_auth.clients.assertion import AssertionVerifier, KeyOwner
from keystile_auth.clients.client import Client
from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.errors import OAuthError
from keystile_auth.tokens.resources import Resource

if TYPE_CHECKING:
    from keystile_auth.clients.service_account import ServiceAccountTokens

_REMEMBERED = 1_000
"""Proofs that were right; a resource has a secret in one or a few spellings, or a token for each of its pods."""
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class PresentedCredentials(NamedTuple):
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

    async def check(self, presented: PresentedCredentials, program: Provable) -> float:
        """Return when `presented` proves `program`.

        Returns:
            Until when it does, Unix seconds: a pod's token is the same in each of its requests, a secret of the
            settings does not change while this runs. Long ago for what is signed for one request alone.

        Raises:
            OAuthError: `invalid_client`: it does not.
            StoreUnavailableError: the store or the cluster's keys cannot be had.
        """
        if presented.assertion is None:
            if not _matches(presented.secret, program.secret_hash):
                raise OAuthError("invalid_client", "the client secret is wrong")
            return inf
        if program.service_account and self._service_accounts:
            return await self._service_accounts.verify(presented.assertion, program.service_account)
        if program.jwks is None and program.jwks_uri is None:
            raise OAuthError("invalid_client", "a client assertion is not how it proves itself")
        await self._assertions.verify(presented.assertion, program)
        return -inf


class ClientAuthenticator:
    """Says which client a request comes from."""

    def __init__(self, directory: ClientDirectory, proofs: Proofs) -> None:
        self._directory = directory
        self._proofs = proofs

    async def authenticate(self, presented: PresentedCredentials, ip: str, document: str | None = None) -> Client:
        """The client that `presented` proves.

        Args:
            presented: what the request brings.
            ip: the address it comes from.
            document: as `ClientDirectory.find` takes it.

        Raises:
            OAuthError: `invalid_client`, with the same sentence for an unknown client as the client needs to
                register again, and one sentence for every kind of wrong proof.
        """
        client = await self._directory.find(presented.client_id, ip, document)
        if presented.method not in _accepted(client.auth_methods):
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


class Proved(NamedTuple):
    """A resource, and until when what proved it does (Unix seconds)."""

    resource: Resource
    until: float


class ResourceAuthenticator:
    """Says which resource server asks at the introspection endpoint.

    Args:
        resources: all there are.
        credentials: of each of them.
        proofs: checks what is presented.
        clock: Unix seconds.
    """

    def __init__(
        self,
        resources: Mapping[str, Resource],
        credentials: Iterable[ResourceCredentials],
        proofs: Proofs,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._resources = resources
        self._credentials = {each.id: each for each in credentials}
        self._proofs = proofs
        self._proved: OrderedDict[bytes, Proved] = OrderedDict()

    def proved(self, proof: bytes) -> Proved | None:
        """What this proved before, if it still does.

        Args:
            proof: what a request brings to say who sends it, all of it, as it came.
        """
        # Found by its digest: how much of a proof is right does not show in the time that takes.
        found = self._proved.get(hashlib.sha256(proof).digest())
        return found if found is not None and self.is_good(found) else None

    def is_good(self, proved: Proved) -> bool:
        """Whether what proved a resource still does."""
        return self._clock() < proved.until

    def remember(self, proof: bytes, proved: Proved) -> None:
        """Keep what this proved, unless it did so once only.

        Args:
            proof: as `proved` takes it.
            proved: what `authenticate` has said of it.
        """
        if not self.is_good(proved):
            return
        self._proved[hashlib.sha256(proof).digest()] = proved
        if len(self._proved) > _REMEMBERED:
            self._proved.popitem(last=False)

    async def authenticate(self, presented: PresentedCredentials) -> Proved:
        """What `presented` proves.

        Raises:
            OAuthError: `invalid_client`, alike for an unknown name and a wrong secret.
            StoreUnavailableError: the store or the cluster's keys cannot be had.
        """
        expected = self._credentials.get(presented.client_id)
        if expected is None or presented.assertion is None:
            if not _matches(presented.secret, expected.secret_hash if expected else None):
                raise OAuthError("invalid_client", "the resource's name or secret is wrong")
            until = inf
        else:
            until = await self._proofs.check(presented, expected)
        return Proved(self._resources[presented.client_id], until)


@lru_cache(32)
def _accepted(registered: tuple[str, ...]) -> frozenset[str]:
    """How a client may authenticate that has registered for these methods."""
    # Basic and post differ only in where the same secret stands; claude.ai registers for one and libraries use
    # the other. Everything else must be what was registered, above all: no secret where one is due.
    either = {"client_secret_basic", "client_secret_post"}
    return frozenset(registered) | (either if either & set(registered) else set())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _matches(secret: str | None, expected: str | None) -> bool:
    # Compared even where there is nothing to compare with, so that time tells nothing.
    return secrets.compare_digest(_digest(secret or ""), expected or "") and bool(secret)
