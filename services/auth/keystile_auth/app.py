"""Wiring: from settings and a store to an application. Settings are read here and passed down as plain values."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from fastapi import FastAPI
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from keystile_auth import __version__
from keystile_auth.clients.assertion import AssertionVerifier
from keystile_auth.clients.authentication import ClientAuthenticator, Proofs, ResourceAuthenticator, ResourceCredentials
from keystile_auth.clients.client import Client, Source
from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.clients.metadata_document import MetadataDocuments
from keystile_auth.clients.registration import Registration, hash_secret
from keystile_auth.endpoints import metadata
from keystile_auth.endpoints.account import AccountEndpoint
from keystile_auth.endpoints.authorize import AuthorizationEndpoint
from keystile_auth.endpoints.browser import Browsers
from keystile_auth.endpoints.consent import ConsentEndpoint
from keystile_auth.endpoints.consent_page import ConsentPage
from keystile_auth.endpoints.direct import Direct, DirectEndpoint
from keystile_auth.endpoints.errors import AnsweredErrors, ErrorAnswers
from keystile_auth.endpoints.events import EventsEndpoint
from keystile_auth.endpoints.header_sign_in import HeaderSignIn
from keystile_auth.endpoints.introspection import IntrospectionEndpoint
from keystile_auth.endpoints.login import LoginEndpoint
from keystile_auth.endpoints.pages import Pages, redirect
from keystile_auth.endpoints.registration import RegistrationEndpoint
from keystile_auth.endpoints.revocation import RevocationEndpoint
from keystile_auth.endpoints.saml import MAX_BODY_BYTES as MAX_SAML_BYTES
from keystile_auth.endpoints.saml import SamlEndpoint
from keystile_auth.endpoints.sign_in import SignInPage
from keystile_auth.endpoints.token import TokenEndpoint
from keystile_auth.endpoints.upstream import UpstreamEndpoint
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.grants.authorization_code import AuthorizationCodeGrant
from keystile_auth.grants.client_credentials import ClientCredentialsGrant
from keystile_auth.grants.refresh_token import RefreshTokenGrant
from keystile_auth.grants.resource_owner import ResourceOwners
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.local import LocalUsers
from keystile_auth.identity.pending import PendingSignIns
from keystile_auth.settings import AuthSettings, MachineClientSettings, ResourceSettings, decode_master_key
from keystile_auth.store.access_token_cache import AccessTokenCache
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grants import KEYS_OF_GRANTS, GrantStore
from keystile_auth.store.held_grants import HeldGrants
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.revocation_feed import RevocationFeed
from keystile_auth.store.revocations import RevocationStore
from keystile_auth.store.sessions import SessionStore
from keystile_auth.store.signing_keys import SigningKeyStore
from keystile_auth.store.upstream import UpstreamStore
from keystile_auth.store.users import UserStore
from keystile_auth.tokens.access_token import AccessTokens
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.opaque import RefreshTokens
from keystile_auth.tokens.resources import Resource, Resources
from keystile_auth.tokens.security_events import SecurityEvents
from keystile_auth.tokens.signing_keys import SigningKeys
from keystile_common import health
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import AuthMetrics
from keystile_common.outbound import PublicFetcher
from keystile_common.store import Store, StoreUnavailableError
from keystile_common.store_tracking import ChangedKeys
from keystile_common.traces import TraceMiddleware

if TYPE_CHECKING:
    from keystile_auth.clients.service_account import ServiceAccountTokens

MAX_BODY_BYTES = 64 * 1024


class _Endpoint(Protocol):
    def routes(self, prefix: str) -> list[Route]: ...


@dataclass(frozen=True, slots=True)
class _Served:
    """What requests come to, what is asked all day by its path, and the access tokens in memory, if any are kept."""

    routes: list[BaseRoute]
    often: dict[str, DirectEndpoint]
    cache: AccessTokenCache | None


def create_metrics() -> AuthMetrics:
    """The metrics of one process, on a registry of their own."""
    return AuthMetrics(CollectorRegistry(), __version__)


def create_app(
    settings: AuthSettings,
    store: Store,
    metrics: AuthMetrics,
    tracer: Tracer,
    audit: AuditLog,
    clock: Callable[[], float] = time.time,
    feed: RevocationFeed | None = None,
) -> ASGIApp:
    """The authorization server as an ASGI application.

    Args:
        settings: what the operator asked for.
        store: connected lazily; the application closes it when it stops.
        metrics: where it counts.
        tracer: where its spans go.
        audit: where its events go.
        clock: Unix seconds, for what the store's clock does not decide.
        feed: where polls for security events wait; given by who ends them before the server stops.
    """
    feed = feed or RevocationFeed(RevocationStore(store))
    fetcher = PublicFetcher(
        allow_loopback=settings.metadata_documents.allow_loopback,
        timeout_seconds=settings.metadata_documents.timeout_seconds,
        ca_file=settings.metadata_documents.ca_file,
        private_hosts=settings.metadata_documents.private_hosts,
    )
    service_accounts = _service_accounts(settings, clock, metrics)
    master_key = MasterKey(decode_master_key(settings.master_key))
    keys = SigningKeys(
        SigningKeyStore(store),
        master_key,
        settings.signing_keys.rotate_after_seconds,
        clock,
        metrics.signing_key_not_after,
    )
    resources = Resources({name: _resource(name, each) for name, each in settings.all_resources.items()})
    audiences = frozenset({settings.issuer, f"{settings.issuer}/token"})
    assertions = AssertionVerifier(audiences, ClientStore(store), LimitStore(store), fetcher, clock)
    proofs = Proofs(assertions, service_accounts)
    prefix = urlsplit(settings.issuer).path
    pages = Pages(prefix, https=settings.issuer.startswith("https:"))
    identities = Identities(
        settings.identity,
        settings.issuer,
        LocalUsers(UserStore(store)),
        UserStore(store),
        UpstreamStore(store),
        master_key,
        clock,
        metrics.jwks,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await store.wait_until_reachable(settings.store.start_seconds)
        await store.require_noeviction()
        await store.require_durability()
        created = await keys.load()
        if created:
            audit.record(EventType.KEY_CREATED, "success", Actor(), target={"kid": created})
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(keys.watched())
            await stack.enter_async_context(fetcher)
            await stack.enter_async_context(identities)
            if service_accounts is not None:
                await stack.enter_async_context(service_accounts)
            if served.cache is not None:
                changes = ChangedKeys(store.redis, KEYS_OF_GRANTS, served.cache.forget)
                served.cache.follow(await stack.enter_async_context(changes))
            yield
        await feed.close()
        await store.close()

    # Starlette would mend a trailing slash by a 307 to the host that the request names.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    served = _endpoints(
        settings,
        store,
        metrics,
        audit,
        clock,
        fetcher,
        proofs,
        master_key,
        keys,
        resources,
        pages,
        identities,
    )
    events = SecurityEvents(settings.issuer, keys, clock)
    polling = _resource_authenticator(settings, resources, proofs, clock)
    polls = EventsEndpoint(polling, feed, RevocationStore(store), events, audit, metrics)
    routes = [*served.routes, *polls.routes(prefix), *metadata.routes(settings, resources, keys)]
    app.router.routes.extend([*routes, *pages.routes(), *health.routes({"store": _store_check(store)})])
    errors = ErrorAnswers(pages, metrics, prefix)
    errors.register(app)
    direct = Direct(AnsweredErrors(app), served.often, errors)
    larger = {f"{prefix}/saml/{name}/acs": MAX_SAML_BYTES for name in identities.posting}
    limited = LimitsMiddleware(direct, MAX_BODY_BYTES, larger)
    return TraceMiddleware(limited, tracer)


def _endpoints(
    settings: AuthSettings,
    store: Store,
    metrics: AuthMetrics,
    audit: AuditLog,
    clock: Callable[[], float],
    fetcher: PublicFetcher,
    proofs: Proofs,
    master_key: MasterKey,
    keys: SigningKeys,
    resources: Resources,
    pages: Pages,
    identities: Identities,
) -> _Served:
    issuer, prefix = settings.issuer, urlsplit(settings.issuer).path
    cache = AccessTokenCache(settings.tokens.client_cache) if settings.tokens.client_cache else None
    clients, limits, users, grants = (
        ClientStore(store),
        LimitStore(store),
        UserStore(store),
        GrantStore(store, cache, clock),
    )
    sessions = SessionStore(
        store,
        idle_seconds=settings.sessions.idle_seconds,
        lifetime_seconds=settings.sessions.lifetime_seconds,
    )
    schemes = settings.registration.private_use_schemes
    documents = MetadataDocuments(
        clients,
        fetcher,
        schemes,
        settings.metadata_documents.max_cache_seconds,
        settings.metadata_documents.kept_seconds,
    )
    directory = ClientDirectory(
        clients,
        documents if settings.metadata_documents.enabled else None,
        limits,
        settings.metadata_documents.fetches_per_minute_and_address,
        {name: _machine_client(name, each) for name, each in settings.clients.items()},
    )
    authenticator = ClientAuthenticator(directory, proofs)
    refresh_tokens = RefreshTokens(master_key)
    access_tokens = AccessTokens(issuer, settings.tokens.access_token_seconds, keys)
    owners = ResourceOwners(identities, grants)
    held = HeldGrants(store, grants, clients, users)
    codes = AuthorizationCodeGrant(
        grants, held, clients, owners, resources, refresh_tokens, access_tokens, settings.tokens
    )
    refreshes = RefreshTokenGrant(grants, held, owners, resources, refresh_tokens, access_tokens, settings.tokens)
    client_credentials = ClientCredentialsGrant(grants, resources, access_tokens)
    browsers = Browsers(issuer, sessions, users, master_key, settings.sessions.lifetime_seconds, identities, audit)
    waiting = WaitingRequests(issuer, sessions, resources, settings.sessions.sign_in_seconds)
    sign_in_page, consent_page = SignInPage(pages, browsers, identities, audit, metrics), ConsentPage(pages, browsers)
    pending = PendingSignIns(UpstreamStore(store), master_key, settings.sessions.sign_in_seconds)
    tries = settings.sign_in.failures_per_5_minutes_and_address
    upstream = UpstreamEndpoint(
        sign_in_page,
        consent_page,
        browsers,
        waiting,
        identities,
        users,
        pending,
        limits,
        audit,
        metrics,
        tries_per_address=tries,
    )
    headers = HeaderSignIn(
        sign_in_page,
        browsers,
        waiting,
        identities,
        limits,
        tries_per_address=settings.sign_in.failures_per_5_minutes_and_address,
    )
    introspection = IntrospectionEndpoint(
        _resource_authenticator(settings, resources, proofs, clock), access_tokens, grants, audit, metrics
    )
    token = TokenEndpoint(authenticator, codes, refreshes, client_credentials, audit, metrics)
    endpoints: list[_Endpoint] = [
        token,
        introspection,
        RevocationEndpoint(authenticator, grants, access_tokens, refresh_tokens, audit, metrics),
        AuthorizationEndpoint(issuer, directory, resources, browsers, waiting, audit, metrics),
        LoginEndpoint(
            sign_in_page, browsers, waiting, identities, upstream, headers, limits, settings.sign_in, metrics
        ),
        upstream,
        SamlEndpoint(identities, pending, upstream, limits, tries_per_address=tries),
        ConsentEndpoint(
            consent_page,
            browsers,
            waiting,
            users,
            codes,
            audit,
            metrics,
            always_ask_native_clients=settings.sign_in.always_ask_native_clients,
        ),
        AccountEndpoint(pages, browsers, directory, resources, grants, users, sessions, audit, metrics),
    ]
    routes: list[BaseRoute] = [route for endpoint in endpoints for route in endpoint.routes(prefix)]
    if settings.registration.enabled:
        registration = RegistrationEndpoint(
            issuer,
            Registration(clients, schemes, settings.registration.unused_seconds, clock),
            grants,
            limits,
            settings.registration.per_hour_and_address,
            audit,
            metrics,
        )
        routes.extend(registration.routes(prefix))
    routes.append(Route(f"{prefix}/", _to_account(prefix), methods=["GET"]))
    return _Served(routes, {f"{prefix}/token": token, f"{prefix}/introspect": introspection}, cache)


def _resource(name: str, settings: ResourceSettings) -> Resource:
    defaults = tuple(settings.default_scopes or settings.scopes)
    return Resource(
        name, settings.uri, settings.title, settings.scopes, defaults, settings.access_token, settings.user_scopes
    )


def _resource_authenticator(
    settings: AuthSettings, resources: Resources, proofs: Proofs, clock: Callable[[], float]
) -> ResourceAuthenticator:
    credentials = [_credentials(name, each) for name, each in settings.all_resources.items()]
    return ResourceAuthenticator(resources.by_name, credentials, proofs, clock)


def _credentials(name: str, settings: ResourceSettings) -> ResourceCredentials:
    return ResourceCredentials(
        id=name,
        secret_hash=hash_secret(settings.secret.get_secret_value()) if settings.secret else None,
        service_account=settings.service_account,
        jwks=settings.jwks,
        jwks_uri=settings.jwks_uri,
    )


def _machine_client(client_id: str, settings: MachineClientSettings) -> Client:
    secret = settings.secret.get_secret_value() if settings.secret else None
    return Client(
        id=client_id,
        name=settings.title,
        source=Source.OPERATOR,
        auth_methods=("client_secret_basic",) if secret else ("private_key_jwt",),
        grant_types=("client_credentials",),
        resources=tuple(settings.resources),
        scopes=tuple(settings.scopes),
        secret_hash=hash_secret(secret) if secret else None,
        service_account=settings.service_account,
        jwks=settings.jwks,
        jwks_uri=settings.jwks_uri,
    )


def _service_accounts(
    settings: AuthSettings, clock: Callable[[], float], metrics: AuthMetrics
) -> "ServiceAccountTokens | None":
    accounts = [each.service_account for each in settings.all_resources.values()]
    accounts += [each.service_account for each in settings.clients.values()]
    if not any(accounts):
        return None
    # Asks the cluster over HTTP: aiohttp, which it does that with, takes 10 MB.
    from keystile_auth.clients.service_account import ServiceAccountTokens  # noqa: PLC0415

    cluster = settings.kubernetes
    return ServiceAccountTokens(cluster.url, cluster.ca_file, cluster.token_file, settings.issuer, clock, metrics.jwks)


def _to_account(prefix: str) -> Callable[[Request], Response]:
    def root(_: Request) -> Response:
        return redirect(f"{prefix}/account")

    return root


def _store_check(store: Store) -> health.Check:
    async def check() -> str | None:
        try:
            await store.ping()
        except StoreUnavailableError as problem:
            return str(problem)
        return None

    return check
