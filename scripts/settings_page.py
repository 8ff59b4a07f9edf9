"""Writes docs/settings.md from the settings models of the services, so that the page cannot fall behind them.

    scripts/settings_page.py           write the page
    scripts/settings_page.py --check   fail if the page, or a sentence below, is not up to date

Names, defaults, bounds and the sentences of a section come from the models. What a setting means comes from its
field's description; where the model has none, from MEANINGS below. One that is missing there, or is there for no
setting, fails both ways.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from keystile_auth.settings import AuthSettings
from keystile_common.settings import PREFIX, SEPARATOR, ServiceSettings
from keystile_embedded.settings import EmbeddedSettings
from keystile_mcp.settings import McpSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

<!-- Written by scripts/settings_page.py from the settings models. Change those, or that, and run it. -->

Each service reads its own settings once, when it starts:

1. the YAML file that `KEYSTILE_CONFIG` names,
2. over it, the files of the folder that `KEYSTILE_SECRETS_DIR` names, one a setting (a mounted Kubernetes Secret),
3. over both, environment variables that begin with `KEYSTILE_`.

A setting has one name. `store.url` in YAML is `KEYSTILE_STORE__URL` in the environment and a file `store__url` in the
secrets folder: dots become two underscores. An item of a list goes by its number, from 0, where the YAML file has it:
`trusted_issuers__0__introspection__client_secret`. In the environment, lists and maps are written as YAML or JSON:
`KEYSTILE_TRUSTED_PROXIES='[10.0.0.0/8]'`. `<name>` stands for a name that you choose, in lower case where a variable
is to reach it.

A key that no setting has, or a value that cannot be right, stops the service before it listens, with the setting's
path. That includes variables that something else sets: in Kubernetes, `enableServiceLinks: false` belongs in the pod,
or a Service called `keystile-…` puts `KEYSTILE_…_PORT` there ([why](decisions/0008-one-name-a-setting.md)).

Paths to files are relative to the folder that the service runs in. Durations are in seconds.
"""

AUTH = """\
Read by `keystile serve`, and by `keystile users`, `keystile clients` and `keystile keys`, which look into the same
store. Without `KEYSTILE_CONFIG` and `KEYSTILE_ISSUER` these commands read what `keystile dev` wrote into `./.keystile`,
or into the folder that `KEYSTILE_DATA_DIR` names.
"""

EMBEDDED = """\
Read by `keystile-mcp --embedded`, where `KEYSTILE_TOPOLOGY` is `embedded` by `keystile users` and `keystile clients`
too. These are the settings of the authorization server above, by the same names, the MCP server's `upstream`, and
those below. Of the MCP server's there are no `authorization_server`, `provider`, `audience`, `validation`,
`scope_prefix`, `scope_claim`, `trusted_issuers`, `introspection`, `jwks`, `revocations`, `handover` and
`request_state_key`, since there is nobody to ask or to share with; its `sessions` are called `mcp_sessions`, and
cannot be `shared`. `resources` are MCP servers elsewhere and may be left out. `listen.port` is 3232, `metrics.port`
9464, `drain_seconds` 20. Where `store` names none, a Valkey is started in `data_dir`.

"""

DEVELOPMENT = """\
## `make run` and `keystile dev`

`make run` is `keystile-mcp --embedded` without settings: it writes a settings file into its data folder at each start,
makes the secrets that are missing, and takes every `KEYSTILE_…` variable over that file. `KEYSTILE_LISTEN__PORT` and
`KEYSTILE_METRICS__PORT` move it. `keystile dev` runs the two services as processes of their own, and hands a variable
on to the service whose setting it names (to both for `log`, `traces`, `drain_seconds` and `trusted_proxies`); its
options are the four ports. Two variables are their own:

| variable | default | meaning |
| --- | --- | --- |
| `KEYSTILE_DATA_DIR` | `.keystile` | The folder for everything that is kept. |
| `KEYSTILE_DEMO_PASSWORD` | random, kept | The password of the user `demo`, at least 12 characters. |
"""

_SENTENCES = """
auth.issuer
    The server's public URL, byte for byte as clients see it; without a slash at the end. Part of every metadata
    document and token answer.
auth.master_key
    32 random bytes in base64: `openssl rand -base64 32`. Encrypts the signing keys; refresh and CSRF tokens are made
    with it. On a store that holds keys encrypted under another one the server does not start.
auth.trusted_proxies
    Addresses or networks whose `X-Forwarded-For` names the client. Rate limits and the audit log see the proxy's
    address otherwise.
auth.drain_seconds
    How long open requests may go on after SIGTERM.
auth.resources.<name>.uri
    The MCP server's resource identifier: the URL of its MCP endpoint, and the `aud` of its tokens.
auth.resources.<name>.title
    What people read at consent.
auth.resources.<name>.scopes
    Scope to sentence; people read the sentence at consent.
auth.resources.<name>.default_scopes
    Granted where a client names no scope; empty means all of them.
auth.resources.<name>.access_token
    `opaque`, or `jwt` for access tokens that are signed JWTs (RFC 9068), which a resource can check by the key set
    at `/jwks` ([why both](decisions/0013-signed-tokens.md)). Refresh tokens are opaque in any case.
auth.resources.<name>.secret
    What the MCP server authenticates with at `/introspect`, beside the name: `openssl rand -hex 32`. At least 32
    characters.
auth.resources.<name>.service_account
    In a cluster, instead of a secret: the service account (`namespace/name`) of the MCP server's pods, whose projected
    token for the issuer's audience is its client assertion.
auth.resources.<name>.jwks
    Instead of a secret: the key set (RFC 7517) of the public keys that the MCP server signs its client assertions with.
auth.resources.<name>.jwks_uri
    The same by the https URL, of a public host, that serves it.
auth.resources.<name>.user_scopes
    The scopes that users may be granted, by identity (`corp`) and by identity and group (`corp/engineering`). Empty:
    everybody may have all. Otherwise what is not named is not granted.
auth.identity.<name>.kind
    `local`, `oidc`, `saml`, `ldap`, `plugin` or `header`. The identity `local`, and no other, is of the kind `local`;
    one alone is of the kind `header`.
auth.identity.<name>.title
    What people read of it; its name by default.
auth.identity.<name>.domains
    `oidc`, `saml`: who types an e-mail address of one of these domains is sent there.
auth.identity.<name>.preset
    `oidc`: `generic`, `google`, `entra`, `okta`, `keycloak`, `auth0` or `github`: what is known of it already.
auth.identity.<name>.issuer
    `oidc`: its issuer, byte for byte as in its discovery document. Known for `google` and `github`.
auth.identity.<name>.client_id
    `oidc`: what this server is called there.
auth.identity.<name>.client_secret
    `oidc`: what it authenticates with there.
auth.identity.<name>.scopes
    `oidc`: what is asked for beside `openid`; empty means `profile email`, and `offline_access` where the preset needs
    it. For `github` empty means `read:user read:org`.
auth.identity.<name>.userinfo
    `oidc`: read the userinfo endpoint beside the ID token.
auth.identity.<name>.username_claim
    `oidc`: the claim that people are called by; the preset's by default. `saml`: the attribute; by default `username`,
    `uid`, `email` or `mail`, else the subject.
auth.identity.<name>.groups_claim
    `oidc`: the claim that lists groups; dots look into objects. The preset's by default, else `groups`. `saml`: the
    attribute, by default `groups`.
auth.identity.<name>.required_claims
    `oidc`, `saml`: claim (attribute) to values, one of which an account must have to sign in.
auth.identity.<name>.anyone
    `oidc`: let in every account there is, for `google` and `github` without `required_claims`.
auth.identity.<name>.directory
    `ldap`: `ldap` (OpenLDAP and its like) or `active_directory`: which filters and attributes are the defaults, and how
    the state of an account is told.
auth.identity.<name>.urls
    `ldap`: `ldaps://host:636`, or `ldap://host:389` with `start_tls`; several servers of one directory are asked in
    turn. Without TLS only on this machine.
auth.identity.<name>.start_tls
    `ldap`: begin TLS before anything else; a server that cannot is not used.
auth.identity.<name>.bind_dn
    `ldap`: the account that searches. It needs no rights but to read.
auth.identity.<name>.bind_password
    `ldap`: its password. The service does not start where the directory refuses it.
auth.identity.<name>.user_base
    `ldap`: the DN below which people are.
auth.identity.<name>.user_filter
    `ldap`: finds a person by `{username}`, which stands for a whole value: `(uid={username})`. Who is not found by it
    cannot sign in, nor refresh. Default: `inetOrgPerson` by `uid`; Active Directory: `user` by `sAMAccountName`.
auth.identity.<name>.username_attribute
    `ldap`: the attribute that people are called by. Default: `uid`; Active Directory: `sAMAccountName`.
auth.identity.<name>.subject_attribute
    `ldap`: the attribute that names a person for ever and is never given to another. Default: `entryUUID`; Active
    Directory: `objectGUID`.
auth.identity.<name>.group_base
    `ldap`: the DN below which groups are searched for. Without it, the person's `memberOf` is read, and groups are
    named by their DNs.
auth.identity.<name>.group_filter
    `ldap`: finds the groups that `{dn}` is a member of; or `{username}`. Default: `member` or `uniqueMember`; Active
    Directory: `member`.
auth.identity.<name>.group_name_attribute
    `ldap`: the attribute that names a group, or `dn`. A name that two groups below `group_base` have counts for
    neither. Default: `cn`; Active Directory: `sAMAccountName`.
auth.identity.<name>.nested_groups
    `ldap`: whether the groups that a group is in count for its members; needs `group_base`.
auth.identity.<name>.connect_timeout_seconds
    `ldap`: how long connecting may take, TLS with it.
auth.identity.<name>.operation_timeout_seconds
    `ldap`: how long one answer may take. A sign-in takes 10 seconds at most.
auth.identity.<name>.pool_size
    `ldap`: sign-ins and checks at one time, each with a connection; further ones wait.
auth.identity.<name>.ca_file
    `oidc`, `saml`: certificate authorities to trust beside the system's, PEM. `ldap`: the only ones to trust.
auth.identity.<name>.metadata_url
    `saml`: where the identity provider's metadata is; fetched each hour, or as often as it asks for.
auth.identity.<name>.metadata_file
    `saml`: instead of the URL, a file; read again each minute.
auth.identity.<name>.metadata_certificate_file
    `saml`: the metadata must be signed by the key of this certificate, PEM; without it, it is trusted as it comes.
auth.identity.<name>.entity_id
    `saml`: what this server is called there; the URL of its own metadata by default.
auth.identity.<name>.idp_entity_id
    `saml`: which identity provider is meant, where the metadata has several.
auth.identity.<name>.name_id_format
    `saml`: the NameID that is asked for and has to come: `persistent`, `email`, `transient`, or `unspecified` for
    whatever the identity provider is set up for.
auth.identity.<name>.subject_claim
    `saml`: the attribute that says who somebody is, for ever; by default the NameID does.
auth.identity.<name>.leeway_seconds
    `saml`: how much the identity provider's clock and ours may differ.
auth.identity.<name>.key
    `saml`: an RSA key, PEM: requests are signed with it, and assertions may be encrypted for it.
auth.identity.<name>.certificate
    `saml`: its certificate, PEM.
auth.identity.<name>.plugin
    `plugin`: `package.module:factory`.
auth.identity.<name>.certificate_names
    `header`: the names (host names, or URIs such as a SPIFFE ID) of which the front proxy's client certificate has one,
    as subject alternative name; needs `listen.tls.client_ca_file`.
auth.identity.<name>.user_header
    `header`: the header that names the person, for ever and nobody else.
auth.identity.<name>.name_header
    `header`: the header with what people are called by.
auth.identity.<name>.email_header
    `header`: the header with what they are called by otherwise; without both it is what names them.
auth.identity.<name>.groups_header
    `header`: the header that lists the person's groups.
auth.identity.<name>.groups_separator
    `header`: what stands between two groups.
auth.identity.<name>.recheck
    `oidc`: `refresh_token` keeps what it gives, encrypted, to ask again; `sign_in` keeps nothing, and people sign in
    again.
auth.identity.<name>.recheck_seconds
    How long what it said of a person holds; then it is asked again at the next refresh.
auth.identity.<name>.recheck_allowance_seconds
    How much longer it holds while it does not answer; otherwise a refresh answers 503.
auth.clients.<name>.title
    What operators call it.
auth.clients.<name>.resources
    The URIs of the resources it may get tokens for.
auth.clients.<name>.scopes
    The scopes it may have.
auth.clients.<name>.secret
    What it authenticates with: `openssl rand -hex 32`.
auth.clients.<name>.service_account
    In a cluster, instead of a secret: the service account (`namespace/name`) whose projected token for the issuer's
    audience is its client assertion.
auth.clients.<name>.jwks
    Instead of a secret: the key set of the public keys that it signs its client assertions with.
auth.clients.<name>.jwks_uri
    The same by the https URL, of a public host, that serves it.
auth.kubernetes.url
    The API server of the cluster whose service accounts are known. Asked only where a resource has one.
auth.kubernetes.ca_file
    The CA of its certificate.
auth.kubernetes.token_file
    This server's own service-account token for it.
auth.tokens.access_token_seconds
    Lifetime of an access token.
auth.tokens.refresh_token_seconds
    How long a grant lives without being refreshed; each refresh begins it anew.
auth.tokens.code_seconds
    Lifetime of an authorization code.
auth.tokens.refresh_grace_seconds
    For how long a rotated refresh token still gets its successor again, instead of ending the grant.
auth.tokens.client_cache
    How many access tokens each process keeps in memory, so that they are introspected without asking the store, while
    the store tells it of every change (CLIENT TRACKING; Valkey, or Redis 6 or newer). Works with store.url alone. 0
    keeps none.
auth.signing_keys.rotate_after_seconds
    The age at which `keystile keys rotate` lets the next key sign.
auth.sessions.idle_seconds
    A session ends after so long without a request.
auth.sessions.lifetime_seconds
    A session ends after so long in any case.
auth.sessions.sign_in_seconds
    How long an authorization request waits for its user to sign in and decide.
auth.registration.enabled
    Whether clients may register themselves. Off, the metadata name no registration endpoint.
auth.registration.per_hour_and_address
    Registrations that one network address may make in an hour.
auth.registration.unused_seconds
    A registration that no user has consented to is forgotten after so long.
auth.registration.private_use_schemes
    Schemes other than https and loopback http that a redirect URI may have; `[]` for none
    ([why](decisions/0004-cursor-scheme.md)). Holds for every kind of client.
auth.metadata_documents.enabled
    Whether a client's https URL is accepted as its `client_id`.
auth.metadata_documents.allow_loopback
    Fetch documents and `jwks_uri` from loopback addresses too. For development.
auth.metadata_documents.private_hosts
    Document hosts on site: host name to networks, such as `{documents.corp.example: [10.1.0.0/16]}`. Such a host, and
    no other, may have an address in its networks; they must be private ones.
auth.metadata_documents.ca_file
    Certificate authorities to trust for these fetches beside the system's, PEM.
auth.metadata_documents.timeout_seconds
    How long one fetch may take.
auth.metadata_documents.max_cache_seconds
    The longest a document is kept, whatever its HTTP headers say.
auth.metadata_documents.kept_seconds
    For how long a document that is no longer fresh still counts while its host is away.
auth.metadata_documents.fetches_per_minute_and_address
    Documents that one network address may make us fetch in a minute.
auth.sign_in.always_ask_native_clients
    Ask for consent each time a client on the user's own machine connects
    ([why](decisions/0003-remembered-consent.md)).
auth.sign_in.failures_per_5_minutes_and_user
    Failed sign-ins of one user name in five minutes; then it has to wait.
auth.sign_in.failures_per_5_minutes_and_address
    The same for one network address.
mcp.resource
    The resource identifier, and the public URL of the MCP endpoint; the same text as the `uri` of the resource at
    the authorization server. Must have a path, without a slash at the end.
mcp.resource_name
    A name for people, in the resource's metadata.
mcp.resource_documentation
    A page for developers, in the resource's metadata.
mcp.authorization_server
    The issuer of the tokens, byte for byte.
mcp.provider
    What the authorization server is: `keystile`, `auth0`, `okta`, `entra`, `keycloak`, `google`, `cognito`, or
    `generic` for any other with tokens as RFC 9068 has them, or RFC 7662 ([how to set each up](providers/README.md)).
mcp.audience
    What `aud` of its tokens must be, or a list of which one must be in it; `resource` by default. Entra and Google
    never name that, so it is **required** for them.
mcp.validation
    How access tokens are checked: `introspection` asks the authorization server, `jwks` checks the signature of a JWT
    with the issuer's keys. With `jwks` a revoked token that was not heard of (`revocations`) is accepted until it
    expires. By default `introspection` for `keystile` and `google`, else `jwks`.
mcp.scope_prefix
    What clients put before a scope when they ask for it; `scopes`, `required_scopes` and `policy` have none. `resource`
    with a slash for Entra and Cognito by default, else nothing.
mcp.scope_claim
    Where scopes are in a token, where that is not the usual place: `permissions` (Auth0), `roles` (Entra, generic),
    `realm_access` or `resource_access` (Keycloak: roles of the realm, or of the client that `audience` names),
    `cognito:groups`, `scp` or `permissions` (generic).
mcp.trusted_issuers
    Issuers whose tokens are honoured beside those of `authorization_server`, each with `issuer`, `until` (a date: its
    tokens are refused from that day on, midnight UTC), and as needed `provider`, `audience`, `validation`,
    `scope_prefix`, `scope_claim`, `introspection`, `jwks` and `revocations` as here. For a move without signing anyone
    out ([how](providers/README.md#moving-without-signing-anyone-out)). No client is sent to them.
mcp.jwks.url
    Where the issuer's key set is; as its metadata say by default. May be a cluster-internal http address.
mcp.jwks.ca_file
    Certificate authorities to trust with an https `url`, PEM; the system's by default. Read anew when it is renewed.
mcp.jwks.algorithms
    What access tokens may be signed with, of `ES256`, `ES384`, `PS256`, `RS256` and `Ed25519`; by default what
    the provider signs with, for `keystile` `ES256`.
mcp.jwks.refresh_seconds
    How old the keys may be before they are fetched anew; those there are go on while that fails.
mcp.jwks.timeout_seconds
    How long that may take; where there are no keys yet the client then gets 503.
mcp.revocations.poll
    Whether Keystile is polled for revocations, with what it is introspected with ([how it works](revocation.md)).
    Without, a revoked token is accepted for as long as answers are kept. Other authorization servers are not polled;
    they may push (below).
mcp.revocations.url
    Where; beside `introspection.url` by default. May be a cluster-internal http address.
mcp.revocations.push.accept
    Whether the issuer's security events are accepted at `/events/push` and the path of `resource`, such as
    `/events/push/mcp` (RFC 8935, [how](revocation.md#events-of-another-issuer)). Not for `keystile`, which is polled.
    Several replicas learn of them by `store`, so they need `sessions: shared`.
mcp.revocations.push.audience
    What `aud` is in the events, one or a list; what it is in the issuer's tokens by default.
mcp.revocations.push.bearer
    Secret that the issuer sends as `Authorization: Bearer`, agreed upon with it. Without, its signature is all that
    is asked for.
mcp.revocations.push.issuer
    What `iss` is in the events where that is not the issuer of its tokens. Needs `jwks_url`.
mcp.revocations.push.jwks_url
    Where the keys are that the events are signed with; those of its tokens by default.
mcp.revocations.push.max_age_seconds
    How old an event may be. Each is known again for so long, and does nothing when it comes again.
mcp.sessions
    Whether a client of a revision before 2026-07-28 gets a session, which lives in the process that opened it
    (`process`), or any replica takes the requests of any session, by `store` and `handover` (`shared`), or each of its
    requests is served alone by any replica (`none`).
mcp.request_state_key
    At least 32 random bytes in base64, the same for all replicas: `openssl rand -base64 32`. It seals what a client of
    revision 2026-07-28 carries between the rounds of a call (`requestState`) at the reference server. By default
    replicas take a key from `store` where `sessions` is `shared`; else each process makes up its own, and refuses what
    another has sealed.
mcp.app
    Your own MCP server instead of the reference server, as `module:name`: the Python SDK's `MCPServer` or `Server`, or
    an ASGI application that serves MCP at the path of `resource`. Also `keystile-mcp --app`.
mcp.handover.host
    Where it listens for the other replicas, with `sessions: shared`. Nobody else must reach it.
mcp.handover.port
    The port.
mcp.handover.address
    How the other replicas reach it, `host:port`; in a pod its own address.
mcp.handover.connect_timeout_seconds
    How long reaching another replica may take; one that cannot be reached counts as dead.
mcp.upstream.url
    Its MCP endpoint (Streamable HTTP). Also `keystile-mcp --upstream`.
mcp.upstream.bearer
    Secret that it is shown as `Authorization: Bearer`.
mcp.upstream.token_file
    The same from a file that is renewed, such as a projected service-account token.
mcp.upstream.identity_key_file
    Private key (PEM or JWK) to sign the identity header with; without it no identity is passed on.
mcp.upstream.ca_file
    Certificate authorities to trust, PEM; the system's by default.
mcp.upstream.connect_timeout_seconds
    How long reaching it may take. An answer may take as long as it takes.
mcp.upstream.connections
    Open connections to it at most; a stream holds one.
mcp.introspection.url
    Where tokens are introspected; `/introspect` below the issuer by default, for other providers as the issuer's
    metadata say. May be a cluster-internal address, http or https.
mcp.introspection.client_id
    The name of this resource in the authorization server's `resources`. **Required** where `validation` is
    `introspection`, with one of the three proofs below.
mcp.introspection.client_secret
    That resource's `secret`.
mcp.introspection.token_file
    In a cluster, instead of a secret: the pod's projected service-account token for the issuer's audience.
mcp.introspection.private_key_file
    Instead of a secret: a file with the private key whose public part the resource's `jwks` or `jwks_uri` has. A client
    assertion is signed with it for each request. PEM, or a JWK, whose `kid` goes into the assertion.
mcp.introspection.ca_file
    Certificate authorities to trust with an https `url`, PEM; the system's by default. Read anew when it is renewed.
mcp.introspection.cache_seconds
    How long an answer is kept, so how long a revoked token may still be accepted where no revocations are heard of; 0
    asks every time. While polls for revocations do not come back it is 5 at most.
mcp.introspection.negative_cache_seconds
    How long a token is remembered as not active.
mcp.introspection.cache_entries
    Answers kept at most; the least recently used goes first.
mcp.introspection.timeout_seconds
    How long one introspection may take; then the client gets 503.
mcp.introspection.connections
    Connections to the authorization server at most.
mcp.scopes
    Every scope of this resource, with a sentence; named in its metadata.
mcp.required_scopes
    Scopes that every request needs, and that a 401 asks for.
mcp.policy
    Tool, or a pattern with `*`, `?` and `[…]`, to the scopes that a call needs beyond `required_scopes`. The most
    specific rule decides alone.
mcp.allowed_origins
    Origins of web pages that may call the MCP endpoint from a browser, such as `http://localhost:6274`.
mcp.trusted_proxies
    Addresses or networks whose `X-Forwarded-For` names the client.
mcp.drain_seconds
    How long open requests may go on after SIGTERM; streams that only listen are ended at once.
embedded.resource
    The resource identifier, and the public URL of the MCP endpoint; `/mcp` at the issuer's origin by default. It has
    the issuer's origin, and a path that the authorization server does not use.
embedded.user_scopes
    The scopes that users may be granted at this process's own server, as `user_scopes` of `resources`.
embedded.mcp_sessions
    The MCP server's `sessions`.
embedded.data_dir
    The folder that the own Valkey keeps its append-only file in. One process at a time can have it.
common.listen.host
    The address to listen on; `0.0.0.0` or `::` in a container.
common.listen.port
    The port.
common.listen.tls.certificate_file
    The certificate to serve TLS with, PEM, those that lead to its authority behind it; plain HTTP without. Read anew
    when it is renewed, without a restart.
common.listen.tls.key_file
    Its private key, PEM without a passphrase.
common.listen.tls.minimum_version
    The oldest version of TLS that is spoken: `1.2` or `1.3`.
auth.listen.tls.client_ca_file
    Authorities of the front proxy's client certificate, PEM, for an identity of the kind `header`. Clients are asked
    for a certificate and may come without one; only TLS 1.3 is spoken then. Read anew when it is renewed.
common.metrics.host
    The address that Prometheus scrapes.
common.metrics.port
    Its port, at `/metrics`.
common.store.url
    One server, Valkey or Redis 7 or later: `redis://`, `rediss://` (TLS) or `unix://`. `maxmemory-policy` must be
    `noeviction`, on every server of any store.
common.store.sentinels
    Instead of `store.url`: `host:port` of each sentinel, where sentinels say which server is the master.
common.store.sentinel_master
    What the sentinels call the master.
common.store.sentinel_username
    The ACL user of the sentinels themselves; it needs `SENTINEL MASTER`.
common.store.sentinel_password
    Their password.
common.store.cluster
    Instead of `store.url`: `host:port` of some nodes of a Redis Cluster; the others are learned from them.
common.store.tls
    TLS to sentinels and servers, or to the cluster. With `store.url` it is `rediss://`.
common.store.username
    The ACL user of the servers.
common.store.password
    The password.
common.store.ca_file
    Certificate authorities to trust with TLS, PEM; the system's by default.
common.store.certificate_file
    The certificate to show to the store, PEM; with `store.key_file`.
common.store.key_file
    Its private key, PEM, not encrypted.
common.store.max_connections
    Connections to the store, or to each node of a cluster, at most; further requests wait.
common.store.durability
    What has to be true of a redemption, a rotation or a revocation before it is answered with success: it is in the
    store's memory (`memory`), on its disk (`fsync`), or in the memory of a replica too (`replicated`). What is not
    confirmed within a second is answered 503, and the same request may be sent again. `fsync` needs Redis 7.2 or any
    Valkey with `appendonly yes` and `appendfsync always`, and the right to CONFIG GET.
common.store.connect_timeout_seconds
    How long connecting may take.
common.store.command_timeout_seconds
    How long one command may take; it is tried once more.
common.store.start_seconds
    How long a start waits for a store that does not answer yet.
common.audit.stdout
    Write audit events to standard output, one JSON line each.
common.audit.file
    Append audit events to this file too.
common.traces.otlp_endpoint
    The OTLP/HTTP collector, such as `http://collector:4318`; `/v1/traces` is added. Off without it.
common.traces.sample_ratio
    The share of traces that begin here and are kept; callers that trace decide for theirs.
common.log.level
    `debug`, `info`, `warning` or `error`.
"""

MEANINGS = {
    path: " ".join(sentence.split())
    for path, sentence in re.findall(r"^(\S+)\n((?: {4}.*\n)+)", _SENTENCES, re.MULTILINE)
}

SERVICES = (
    ("Authorization server", "auth", AUTH, AuthSettings),
    ("MCP server", "mcp", "Read by `keystile-mcp`.\n", McpSettings),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its path in YAML, and its columns."""

    path: str
    default: str
    meaning: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.path.replace(".", SEPARATOR).upper()


def main() -> int:
    """Write or check the page; answers the exit status."""
    unused = set(MEANINGS)
    services = [_service(title, name, text, model, unused) for title, name, text, model in SERVICES]
    text = "\n".join([INTRODUCTION, *services, _embedded(unused), DEVELOPMENT])
    if unused:
        print(f"scripts/settings_page.py: no setting has these: {', '.join(sorted(unused))}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print("docs/settings.md is not up to date: run .venv/bin/python scripts/settings_page.py", file=sys.stderr)
        return 1
    return 0


def _service(title: str, service: str, introduction: str, model: type[BaseModel], unused: set[str]) -> str:
    alone, sections = [], []
    # A service's own settings before those that both have.
    fields = sorted(model.model_fields.items(), key=lambda each: each[0] in ServiceSettings.model_fields)
    for name, field in fields:
        section, path = _section(name, field)
        if section is None:
            alone.append(_row(service, name, field, None, unused))
            continue
        defaults = field.get_default() if isinstance(field.get_default(), BaseModel) else None
        rows = _rows(service, path, section, defaults, unused)
        sections.append(f"### `{path}`\n\n{_sentence(section)}\n\n{_table(rows)}")
    return "\n".join([f"## {title}\n\n{introduction}\n{_table(alone)}", *sections])


def _rows(service: str, path: str, section: type[BaseModel], defaults: Any, unused: set[str]) -> list[Row]:
    """The settings of a section, and of a section in it."""
    rows = []
    for key, field in section.model_fields.items():
        inner, default = _section(key, field)[0], defaults and getattr(defaults, key)
        if inner is None:
            rows.append(_row(service, f"{path}.{key}", field, default, unused))
        else:
            rows.extend(_rows(service, f"{path}.{key}", inner, default, unused))
    return rows


def _embedded(unused: set[str]) -> str:
    """What the embedded topology has beyond the authorization server's settings, or instead of the MCP server's."""
    rows = []
    for name, field in EmbeddedSettings.model_fields.items():
        if name not in AuthSettings.model_fields and _section(name, field)[0] is None:
            service = "mcp" if name in McpSettings.model_fields and f"embedded.{name}" not in MEANINGS else "embedded"
            rows.append(_row(service, name, field, None, unused))
    return f"## Embedded topology\n\n{EMBEDDED}{_table(rows)}"


def _section(name: str, field: FieldInfo) -> tuple[type[BaseModel] | None, str]:
    """The model below a field, and its path; None for a plain setting."""
    annotation: Any = field.annotation
    path = name
    if get_origin(annotation) is dict:
        annotation, path = get_args(annotation)[1], f"{name}.<name>"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, path
    return None, name


def _row(service: str, path: str, field: FieldInfo, default: Any, unused: set[str]) -> Row:
    meaning = field.description
    for key in (f"{service}.{path}", f"common.{path}"):
        unused.discard(key)
        meaning = meaning or MEANINGS.get(key)
    if meaning is None:
        raise SystemExit(f"scripts/settings_page.py: {service}.{path} has no sentence that says what it means")
    shown = "**required**" if field.is_required() else _value(field.get_default() if default is None else default)
    return Row(path, shown, meaning + _bounds(field))


def _bounds(field: FieldInfo) -> str:
    if field.annotation not in {int, float}:
        return ""
    found = ", ".join(map(_bound, field.metadata))
    return f" {found[:1].upper()}{found[1:]}." if found else ""


def _bound(constraint: object) -> str:
    match constraint:
        case Ge(ge=bound):
            return f"at least {bound}"
        case Gt(gt=bound):
            return f"more than {bound}"
        case Le(le=bound):
            return f"at most {bound}"
        case Lt(lt=bound):
            return f"less than {bound}"
        case _:
            raise SystemExit(f"scripts/settings_page.py: nobody taught it to say {constraint!r}")


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool | list | dict):
        return f"`{json.dumps(value)}`"
    if isinstance(value, SecretStr):
        return "hidden"
    return f"`{value}`"


def _sentence(section: type[BaseModel]) -> str:
    paragraphs = (section.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _table(rows: list[Row]) -> str:
    return "".join(["| setting | default | meaning |\n| --- | --- | --- |\n", *map(_line, rows)])


def _line(row: Row) -> str:
    names = f"`{row.path}`<br>`{row.variable}`"
    return f"| {names} | {row.default} | {row.meaning} |\n"


if __name__ == "__main__":
    sys.exit(main())
