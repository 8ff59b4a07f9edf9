"""Our addresses for SAML: our metadata, where answers are posted, and where the browser then comes by itself.

An identity provider has the browser post its answer from the provider's page. Such a request carries no cookie of ours,
which are SameSite=Lax. So nothing is decided on it: the answer is put down under the sign-in's `state`, and the browser
is sent to another address here, to which it brings its cookie.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.endpoints.pages import redirect
from keystile_auth.endpoints.parameters import form, ip_of, parse, query_of, single
from keystile_auth.endpoints.upstream import UpstreamEndpoint, sign_in_is_over
from keystile_auth.errors import RateLimitedError
from keystile_auth.identity.answer import SignIn, SignInRefusedError
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.pending import PendingSignIns
from keystile_auth.store.limits import LimitStore

if TYPE_CHECKING:
    from keystile_auth.identity.provider import Provider

MAX_BODY_BYTES = 256 * 1024
"""The most that may be posted: an assertion with many groups is larger than other forms."""
_WINDOW_SECONDS = 300


class SamlEndpoint:
    """Answers `/saml/NAME/metadata`, `/saml/NAME/acs` and `/saml/NAME/finish` of identities of the kind `saml`."""

    def __init__(
        self,
        identities: Identities,
        pending: PendingSignIns,
        upstream: UpstreamEndpoint,
        limits: LimitStore,
        *,
        tries_per_address: int,
    ) -> None:
        self._identities = identities
        self._pending = pending
        self._upstream = upstream
        self._limits = limits
        self._tries = tries_per_address

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path; none where no identity is of this kind."""
        self._prefix = prefix
        return [route for name, each in self._identities.posting.items() for route in self._of(name, each)]

    def _of(self, name: str, provider: "Provider") -> list[Route]:
        base = f"{self._prefix}/saml/{name}"

        async def metadata(_: Request) -> Response:
            return Response(
                provider.service_metadata,
                media_type="application/samlmetadata+xml",
                headers={"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"},
            )

        async def posted(request: Request) -> Response:
            return await self.posted(request, name)

        async def finish(request: Request) -> Response:
            return await self.finish(request, name)

        return [
            Route(f"{base}/metadata", metadata, methods=["GET"]),
            Route(f"{base}/acs", posted, methods=["POST"]),
            Route(f"{base}/finish", finish, methods=["GET"]),
        ]

    async def posted(self, request: Request, name: str) -> Response:
        """The assertion consumer service (SAML bindings, section 3.5.4)."""
        parameters = await form(request, folded=True)
        state = parameters.get("RelayState", "")
        # Only for a sign-in that is on its way: a stranger cannot fill the store.
        if not await self._pending.awaits(state, name):
            raise sign_in_is_over()
        count, left = await self._limits.count("saml-address", ip_of(request), _WINDOW_SECONDS)
        if count > self._tries:
            raise RateLimitedError("login", left)
        await self._pending.put_posted(state, parameters.get("SAMLResponse", ""))
        # 303: the browser comes with GET, and so with its cookie.
        return redirect(f"{self._prefix}/saml/{name}/finish?{urlencode({'state': state})}")

    async def finish(self, request: Request, name: str) -> Response:
        """The browser comes for what was posted."""
        state = single(parse(query_of(request))).get("state", "")
        return await self._upstream.finish(request, name, state, lambda: self._who(name, state))

    async def _who(self, name: str, state: str) -> SignIn:
        answer = await self._pending.take_posted(state)
        if not answer:
            raise SignInRefusedError("saml no response", "its answer is not complete")
        return await self._identities.providers[name].sign_in(answer, self._pending.of(state))
