"""Kubernetes service accounts: a pod's projected token is its client assertion (RFC 7523 section 3).

The kubelet gives a pod a short-lived token, signed by the cluster, for the audience that the pod asked for: this
server's issuer. So no secret has to be made, kept or rotated between a resource server and this one. The
cluster's issuer and keys come from its API server's own discovery documents.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from keystile_auth.clients.claims import read, refused
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_common.jws import (
    LEEWAY_SECONDS,
    JwsError,
    Key,
    UnverifiedJwt,
    audiences_of,
    numeric_date,
    public_keys,
    verify,
)
from keystile_common.metrics import JwksMetrics
from keystile_common.store import StoreUnavailableError

ALGORITHMS = ("RS256", "ES256")
SUBJECT_PREFIX = "system:serviceaccount:"
_KEYS_SECONDS = 300
_REFETCH_SECONDS = 10
_REMEMBERED = 1_000


class ClusterUnavailableError(StoreUnavailableError):
    """The API server did not tell its keys; nothing is known of the token, so nothing is said of it but 503."""


class ServiceAccountTokens(HttpClient):
    """Checks service-account tokens of one cluster. Used as an async context manager.

    Args:
        url: the API server.
        ca_file: the CA of its certificate.
        token_file: this pod's own token for it; read anew each time, since the kubelet rotates it.
        audience: this server's issuer.
        clock: Unix seconds.
        metrics: where it counts what it fetches.
    """

    def __init__(
        self,
        url: str,
        ca_file: Path,
        token_file: Path,
        audience: str,
        clock: Callable[[], float],
        metrics: JwksMetrics,
    ) -> None:
        super().__init__(
            timeout_seconds=1.0,
            authorities=TrustedAuthorities(ca_file, "kubernetes.ca_file") if url.startswith("https:") else None,
        )
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._audience = audience
        self._clock = clock
        self._refreshes = metrics.refreshes
        self._issuer = ""
        self._keys: tuple[Key, ...] | None = None
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()
        self._verified: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    async def verify(self, token: str, service_account: str) -> float:
        """Check that the cluster gave `token` to `service_account` for this server, and that it is good now.

        Args:
            token: as it was presented.
            service_account: `namespace/name`.

        Returns:
            Until when it is, Unix seconds.

        Raises:
            OAuthError: `invalid_client`.
            ClusterUnavailableError: the cluster's keys cannot be had.
        """
        wanted = SUBJECT_PREFIX + service_account.replace("/", ":")
        digest = hashlib.sha256(token.encode()).digest()
        subject, expires = self._verified.get(digest, ("", 0.0))
        # A token is presented with every introspection until it is rotated: its signature is checked once.
        if expires + LEEWAY_SECONDS <= self._clock():
            subject, expires = await self._check(token)
            self._verified[digest] = subject, expires
            if len(self._verified) > _REMEMBERED:
                self._verified.popitem(last=False)
        if subject != wanted:
            raise refused("is not of the service account that was set for this resource")
        return expires + LEEWAY_SECONDS

    async def _check(self, token: str) -> tuple[str, float]:
        claims = await self._signed_claims(read(token, ALGORITHMS))
        now = self._clock()
        expires, not_before = numeric_date(claims.get("exp")), numeric_date(claims.get("nbf", 0))
        if claims.get("iss") != self._issuer:
            raise refused("is not of this cluster")
        if self._audience not in audiences_of(claims):
            raise refused(f"must be projected for the audience {self._audience}")
        if expires is None or expires + LEEWAY_SECONDS <= now:
            raise refused("has expired")
        if not_before is None or not_before > now + LEEWAY_SECONDS:
            raise refused("is not valid yet")
        return str(claims.get("sub")), expires

    async def _signed_claims(self, token: UnverifiedJwt) -> dict[str, Any]:
        if self._clock() - self._fetched > _KEYS_SECONDS:
            await self._fetch_keys()
        try:
            return self._claims(token)
        except JwsError:
            # The cluster may have new keys; ask, but not for every forgery that comes.
            if self._clock() - self._fetched <= _REFETCH_SECONDS:
                raise refused("has no signature of this cluster") from None
        await self._fetch_keys()
        try:
            return self._claims(token)
        except JwsError:
            raise refused("has no signature of this cluster") from None

    def _claims(self, token: UnverifiedJwt) -> dict[str, Any]:
        if self._keys is None:
            raise ClusterUnavailableError("kubernetes.keys: never fetched")
        return verify(token, self._keys)

    async def _fetch_keys(self) -> None:
        before = self._fetched
        async with self._lock:
            if self._fetched != before:
                return  # somebody else has just done it
            try:
                issuer = (await self._get("/.well-known/openid-configuration"))["issuer"]
                keys = public_keys(await self._get("/openid/v1/jwks"))
            except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, TimeoutError):
                self._refreshes.labels("error").inc()
                if self._keys is None:
                    raise ClusterUnavailableError("kubernetes.keys: the API server does not tell them") from None
                return  # those we have go on; a cluster changes its keys once in years
            self._issuer, self._keys, self._fetched = issuer, keys, self._clock()
            self._refreshes.labels("success").inc()

    async def _get(self, path: str) -> Any:
        token = await asyncio.to_thread(self._token_file.read_text)
        headers = {"Authorization": f"Bearer {token.strip()}"}
        async with self.request("GET", self._url + path, headers=headers) as response:
            response.raise_for_status()
            return await response.json(content_type=None)
