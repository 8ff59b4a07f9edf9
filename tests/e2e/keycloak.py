"""A Keycloak in the cluster: a realm, a client that is Keystile, and clients that get their tokens there themselves."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.auth_server import Pkce
from tests.e2e.company import DOMAIN, Company, names_lead_here
from tests.e2e.kubernetes import ROOT, Kubernetes, eventually
from tests.e2e.site import CALLBACK, Site
from tests.keycloak import SIGNED_ASSERTIONS, UNSIGNED_REQUESTS, add_saml_client
from tests.made_run import free_ports
from tests.person import forms

NAMESPACE = "identity"
HOST = f"keycloak.{NAMESPACE}.svc"
IMAGE = "quay.io/keycloak/keycloak:26.7"
CLIENT_SECRET = "keycloak-secret-of-the-tests"
_ADMIN_PASSWORD = "admin-password-1"
_USERNAME, _PASSWORD = "ada", "analytical engine"
_ROLES = {
    "name": "roles",
    "protocol": "openid-connect",
    "protocolMapper": "oidc-usermodel-realm-role-mapper",
    "config": {
        "claim.name": "realm_access.roles",
        "jsonType.label": "String",
        "multivalued": "true",
        "id.token.claim": "true",
    },
}


@dataclass(frozen=True)
class Keycloak:
    """The running server with the realm `company`, in which there is ada, who has the role staff."""

    port: int
    tls: ssl.SSLContext

    @property
    def origin(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def issuer(self) -> str:
        return f"{self.origin}/realms/company"

    def at(self, endpoint: str) -> str:
        """The URL of an endpoint of the realm."""
        return f"{self.issuer}/protocol/openid-connect/{endpoint}"

    @contextmanager
    def administrator(self) -> Iterator[httpx2.Client]:
        """What an administrator has to ask with."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": _ADMIN_PASSWORD}
        with httpx2.Client(base_url=self.origin, timeout=60, verify=self.tls) as http:
            answer = http.post("/realms/master/protocol/openid-connect/token", data=form)
            assert answer.status_code == 200, answer.text
            http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield http

    def make_realm(self, keystile: str, resource: str) -> None:
        """Make the realm, for a Keystile with this issuer and an MCP server with this resource identifier."""
        user = {
            "username": _USERNAME,
            "enabled": True,
            "email": "ada@example.com",
            "emailVerified": True,
            "firstName": "Ada",
            "lastName": "Lovelace",
            "credentials": [{"type": "password", "value": _PASSWORD}],
            "realmRoles": ["staff", "offline_access"],
        }
        clients = [
            {
                "clientId": "keystile",
                "secret": CLIENT_SECRET,
                "redirectUris": [f"{keystile}/login/callback/*"],
                "protocolMappers": [_ROLES],
            },
            {"clientId": "cli", "publicClient": True, "redirectUris": [CALLBACK]},
        ]
        realm = {
            "realm": "company",
            "enabled": True,
            "roles": {"realm": [{"name": "staff"}, {"name": "admins"}]},
            "users": [user],
            "clients": clients,
        }
        with self.administrator() as http:
            answer = http.post("/admin/realms", json=realm)
            assert answer.status_code == 201, answer.text
            (client,) = http.get("/admin/realms/company/clients", params={"clientId": "cli"}).json()
            made = http.post("/admin/realms/company/client-scopes", json=_scope("mcp:basic", resource))
            scope = made.headers["location"].rpartition("/")[2]
            path = f"/admin/realms/company/clients/{client['id']}/optional-client-scopes/{scope}"
            assert http.put(path).status_code == 204

    def set_enabled(self, *, enabled: bool) -> None:
        """Enable or disable ada's account."""
        with self.administrator() as http:
            users = "/admin/realms/company/users"
            (user,) = http.get(users, params={"username": _USERNAME, "exact": "true"}).json()
            answer = http.put(f"{users}/{user['id']}", json={**user, "enabled": enabled})
            assert answer.status_code == 204, answer.text

    def add_saml_client(self, metadata: str) -> None:
        """Register a service provider by its metadata; it is told who somebody is by signed assertions."""
        with self.administrator() as http:
            add_saml_client(http, "/admin/realms/company", metadata, SIGNED_ASSERTIONS | UNSIGNED_REQUESTS)

    def fill_in(self, browser: httpx2.Client, page: httpx2.Response) -> httpx2.Response:
        """Fill in the sign-in page."""
        (login,) = [each for each in forms(page) if "password" in each.fields]
        return browser.post(login.action, data={**login.fields, "username": _USERNAME, "password": _PASSWORD})

    def log_in(self, browser: httpx2.Client, page: httpx2.Response) -> str:
        """The same; answers where the browser is sent."""
        answer = self.fill_in(browser, page)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["location"])

    def sign_in(self, scope: str, resource: str) -> str:
        """An access token for a client of Keycloak's own, by the authorization code grant."""
        pkce = Pkce()
        query = {
            "response_type": "code",
            "client_id": "cli",
            "redirect_uri": CALLBACK,
            "scope": f"openid {scope}",
            "state": "st4te",
            "resource": resource,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        }
        with httpx2.Client(timeout=60, verify=self.tls) as browser:
            answer = parse_qs(urlsplit(self.log_in(browser, browser.get(self.at("auth"), params=query))).query)
            form = {"client_id": "cli", "redirect_uri": CALLBACK, "code_verifier": pkce.verifier}
            form |= {"grant_type": "authorization_code", "code": answer["code"][0]}
            tokens = browser.post(self.at("token"), data=form)
        assert tokens.status_code == 200, tokens.text
        return str(tokens.json()["access_token"])


def external_resource(site: Site) -> str:
    """The MCP server that takes the realm's tokens by itself."""
    return f"https://external{DOMAIN}:{urlsplit(site.issuer).port}/mcp"


def _scope(name: str, resource: str) -> dict[str, Any]:
    """A scope of an MCP server: whoever has it has its audience too."""
    mapper = {
        "name": "mcp server",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": resource, "access.token.claim": "true"},
    }
    attributes = {"include.in.token.scope": "true"}
    return {"name": name, "protocol": "openid-connect", "attributes": attributes, "protocolMappers": [mapper]}


@contextmanager
def running_keycloak(kubernetes: Kubernetes, company: Company) -> Iterator[Keycloak]:
    """Run the server in a namespace of its own, with a certificate of the company's authority, while the block runs."""
    (port,) = free_ports(1)
    kubernetes.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    kubernetes.run("kubectl", "create", "namespace", NAMESPACE)
    company.put_certificate(replace(kubernetes, namespace=NAMESPACE), "keycloak-tls", HOST)
    manifests = (ROOT / "tests" / "e2e" / "keycloak.yaml").read_text().replace("PORT", str(port))
    kubernetes.kubectl("apply", "--filename", "-", given=manifests, namespace=NAMESPACE)
    kubernetes.kubectl("wait", "pod/keycloak", "--for=condition=Ready", "--timeout=240s", namespace=NAMESPACE)
    with kubernetes.port_forward("keycloak", port, NAMESPACE, at=port), names_lead_here(HOST):
        keycloak = Keycloak(port, ssl.create_default_context(cafile=str(company.ca_file)))
        eventually("Keycloak answers", lambda: _answers(keycloak))
        yield keycloak
    kubernetes.run("kubectl", "delete", "namespace", NAMESPACE, "--wait=false")


def _answers(keycloak: Keycloak) -> bool:
    try:
        return httpx2.get(f"{keycloak.origin}/realms/master", verify=keycloak.tls, timeout=20).status_code == 200
    except httpx2.TransportError:
        return False
