"""The authorization servers that tokens may come from, and how their access tokens differ: one table.

What a provider's documentation says of its tokens is written down here and nowhere else. An ID token has the same
issuer, keys and often the same subject as an access token, so each provider has proofs: something that its access
tokens have and its ID tokens cannot have. A token with none of them is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

ProviderName = Literal["keystile", "auth0", "okta", "entra", "keycloak", "google", "cognito", "generic"]
Method = Literal["introspection", "jwks"]
ScopeClaim = Literal["scope", "scp", "permissions", "roles", "realm_access", "resource_access", "cognito:groups"]
Proof = Mapping[str, str | None]
"""Claims that must be there together, with this value, or with any where it is None."""

TYPE_HEADER = "header typ"
"""Stands for the header's `typ` in a proof: in lower case without `application/`, empty where there is none."""
GOOGLE_TOKEN_INFO = "https://oauth2.googleapis.com/tokeninfo"

_AT_JWT = "at+jwt"
_OF_ID_TOKENS = ("nonce", "at_hash", "c_hash", "s_hash")
_GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Provider:
    """One kind of authorization server.

    Attributes:
        name: as the setting `provider` has it.
        title: as people write it.
        methods: how its tokens can be checked; the first is the default.
        algorithms: what its tokens are signed with, unless the settings say otherwise.
        types: the `typ` headers that its access tokens have.
        proofs: of a JWT, that it is an access token; one will do.
        answer_proofs: the same of an introspection answer.
        id_token_marks: claims that only an ID token has; refused whatever else is there.
        scope_claims: where scopes may be, of a JWT; the first is the default.
        machine_scope_claim: where they are in a machine client's token, which has none of the default claim.
        audience_claims: what names the audience; the first that is there decides.
        client_claims: what names the client; the first that is there decides.
        subject_claims: what names the resource owner.
        username_claims: a name for people.
        required: claims that a JWT must have beside the issuer, its end, its client and its subject.
        issuer_form: what the path of its issuer looks like, and the same as a sentence.
        needs_audience: whether its tokens never name the resource's URL.
        qualifies_scopes: whether clients ask for its scopes by `scope_prefix`, the resource by default.
        tokens_have_prefix: whether the prefix is in its tokens, too.
    """

    name: ProviderName
    title: str
    methods: tuple[Method, ...] = ("jwks",)
    algorithms: tuple[str, ...] = ("RS256",)
    types: frozenset[str] = frozenset({_AT_JWT, "jwt"})
    proofs: tuple[Proof, ...] = ({TYPE_HEADER: _AT_JWT},)
    answer_proofs: tuple[Proof, ...] = ()
    id_token_marks: tuple[str, ...] = _OF_ID_TOKENS
    scope_claims: tuple[ScopeClaim, ...] = ("scope",)
    machine_scope_claim: ScopeClaim | None = None
    audience_claims: tuple[str, ...] = ("aud",)
    client_claims: tuple[str, ...] = ("client_id", "azp")
    subject_claims: tuple[str, ...] = ("sub",)
    username_claims: tuple[str, ...] = ("username", "preferred_username")
    required: tuple[str, ...] = ("iat",)
    issuer_form: tuple[str, str] | None = None
    needs_audience: bool = False
    qualifies_scopes: bool = False
    tokens_have_prefix: bool = True

    def names(self, issuer: str) -> frozenset[str]:
        """What `iss` may be in tokens of `issuer`."""
        tenant = self.tenant(issuer)
        # An Entra application that did not ask for tokens of version 2 gets those of version 1, from either endpoint.
        return frozenset({issuer} | ({f"https://sts.windows.net/{tenant}/"} if tenant else set()))

    def tenant(self, issuer: str) -> str | None:
        """The tenant that tokens must name in `tid`; None where they name none."""
        return urlsplit(issuer).path.split("/")[1] if self.name == "entra" else None


_ALL = (
    # RFC 9068 with every claim that it requires.
    Provider(
        "keystile",
        "Keystile",
        methods=("introspection", "jwks"),
        algorithms=("ES256",),
        types=frozenset({_AT_JWT}),
        client_claims=("client_id",),
        required=("iat", "client_id", "jti"),
    ),
    # Its RFC 9068 profile says at+jwt. Its own says JWT, as ID tokens do; but scope, gty and permissions are claims
    # that actions cannot put into an ID token. With RBAC, permissions is all that the user may, asked for or not.
    Provider(
        "auth0",
        "Auth0",
        algorithms=("RS256", "PS256"),
        proofs=({TYPE_HEADER: _AT_JWT}, {"scope": None}, {"gty": None}, {"permissions": None}),
        scope_claims=("scope", "permissions"),
        issuer_form=(r"/", "the tenant's domain with a slash at the end, such as https://example.eu.auth0.com/"),
    ),
    # Of a custom authorization server. cid and scp are reserved and in access tokens only.
    Provider(
        "okta",
        "Okta",
        methods=("jwks", "introspection"),
        types=frozenset({_AT_JWT, "jwt", ""}),
        proofs=({"cid": None, "scp": None},),
        answer_proofs=({"token_type": "Bearer", "scope": None},),
        scope_claims=("scp",),
        client_claims=("cid", "client_id"),
        subject_claims=("uid", "sub"),
        username_claims=("username", "sub"),
        issuer_form=(
            r"/oauth2/[^/]+",
            "that of a custom authorization server, such as https://example.okta.com/oauth2/default, not of the org's",
        ),
    ),
    # scp is in tokens of users, idtyp (an optional claim to turn on) says app in those of machines. roles alone
    # proves nothing: ID tokens have them too.
    Provider(
        "entra",
        "Microsoft Entra ID",
        proofs=({"scp": None}, {"idtyp": "app"}),
        scope_claims=("scp", "roles"),
        machine_scope_claim="roles",
        client_claims=("azp", "appid"),
        subject_claims=("oid", "sub"),
        username_claims=("preferred_username", "upn", "unique_name"),
        required=("iat", "tid"),
        issuer_form=(
            f"/{_GUID}/v2.0",
            "of one tenant, by its id: https://login.microsoftonline.com/TENANT-ID/v2.0, never common or organizations",
        ),
        needs_audience=True,
        qualifies_scopes=True,
        tokens_have_prefix=False,
    ),
    # The payload has a typ of its own: Bearer, ID, Refresh, Logout, DPoP. Introspection repeats it.
    Provider(
        "keycloak",
        "Keycloak",
        methods=("jwks", "introspection"),
        algorithms=("RS256", "PS256", "ES256"),
        proofs=({"typ": "Bearer"},),
        answer_proofs=({"typ": "Bearer"},),
        id_token_marks=("at_hash", "c_hash", "s_hash"),  # older realms copy the nonce into access tokens
        scope_claims=("scope", "realm_access", "resource_access"),
        client_claims=("azp", "client_id"),
        username_claims=("preferred_username", "username"),
        issuer_form=(r"(/.*)?/realms/[^/]+", "that of a realm, such as https://id.example.com/realms/example"),
    ),
    # Opaque tokens, about which tokeninfo is asked. Only what is no JWT is asked about, so no ID token gets there.
    Provider(
        "google",
        "Google",
        methods=("introspection",),
        types=frozenset(),
        proofs=(),
        answer_proofs=({"azp": None, "scope": None},),
        client_claims=("azp",),
        username_claims=("email",),
        needs_audience=True,
    ),
    # No typ header at all; token_use is id in ID tokens. aud is there only for clients that sent `resource`.
    Provider(
        "cognito",
        "Amazon Cognito",
        types=frozenset({"", "jwt"}),
        proofs=({"token_use": "access"},),
        scope_claims=("scope", "cognito:groups"),
        audience_claims=("aud", "client_id"),
        client_claims=("client_id",),
        issuer_form=(
            r"/[a-z0-9-]+_[A-Za-z0-9]+",
            "that of a user pool: https://cognito-idp.REGION.amazonaws.com/POOL-ID; its domain for sign-in is none",
        ),
        qualifies_scopes=True,
    ),
    # Of a server nothing is known of, the JWT must be what RFC 9068 says, and the answer what RFC 7662 says.
    Provider(
        "generic",
        "any other",
        methods=("jwks", "introspection"),
        algorithms=("ES256", "RS256", "PS256"),
        types=frozenset({_AT_JWT}),
        answer_proofs=({"token_type": "Bearer"}, {"scope": None}),
        scope_claims=("scope", "scp", "permissions", "roles"),
    ),
)

PROVIDERS: Mapping[ProviderName, Provider] = {each.name: each for each in _ALL}


def method_of(provider: Provider, method: Method | None) -> Method:
    """How tokens are checked: as set, else as the provider has it by default."""
    return method or provider.methods[0]


def check(
    provider: Provider,
    issuer: str,
    *,
    method: Method,
    audience: bool,
    scope_claim: ScopeClaim | None,
    client_id: bool,
) -> None:
    """Refuse what cannot work with `provider`.

    Args:
        provider: of the table.
        issuer: as set.
        method: how its tokens shall be checked.
        audience: whether one is set.
        scope_claim: as set.
        client_id: whether there is something to introspect with.

    Raises:
        ValueError: a sentence that says what to change.
    """
    if method not in provider.methods:
        raise ValueError(f"validation: {provider.title} has {' and '.join(provider.methods)} only")
    if provider.issuer_form is not None and not re.fullmatch(provider.issuer_form[0], urlsplit(issuer).path):
        raise ValueError(f"the issuer of {provider.title} is {provider.issuer_form[1]}")
    if provider.name == "google" and urlsplit(issuer).path:
        raise ValueError("the issuer of Google is https://accounts.google.com")
    if provider.needs_audience and not audience:
        raise ValueError(
            f"audience: tokens of {provider.title} never name the resource's URL; docs/providers says what"
        )
    if scope_claim is not None and scope_claim not in provider.scope_claims:
        raise ValueError(f"scope_claim: {provider.title} has {' and '.join(provider.scope_claims)} only")
    if method == "introspection" and provider.name != "google" and not client_id:
        raise ValueError(
            "introspection: is required; set introspection.client_id in the YAML file or as "
            "KEYSTILE_INTROSPECTION__CLIENT_ID, or validation to jwks where access tokens are JWTs"
        )
