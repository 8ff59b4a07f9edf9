"""CVE-2026-1609 and CVE-2024-52287: a disabled user gets nothing more, and nobody a scope that was not set up."""

from typing import Any

import pytest

from keystile_auth.store.users import UserStore
from tests.auth_server import AuthServer, Pkce
from tests.person import Person, form


def disable(server: AuthServer, person: Person) -> None:
    """Disabled only, without ending anything: each endpoint must see it by itself."""

    async def work(users: UserStore) -> Any:
        user = await users.find_by_name(person.username)
        assert user is not None
        await users.set_disabled(user, disabled=True)

    server.in_store(work)


def test_cve_2026_1609_a_disabled_user_is_refused_with_every_grant_and_at_every_page(auth_server: AuthServer) -> None:
    person, client, pkce = auth_server.person(), auth_server.register(), Pkce()
    tokens = auth_server.tokens(client.id, person)
    code = auth_server.code(client.id, pkce, person)
    waiting = form(person.get(auth_server.authorization_url(auth_server.register().id, Pkce())), "/consent")
    disable(auth_server, person)
    for answer in (
        auth_server.refresh(client.id, tokens["refresh_token"]),
        auth_server.redeem(client.id, code, pkce),
    ):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert person.submit(waiting, decision="allow").status_code == 401
    assert person.browser.get(f"{auth_server.issuer}/account").headers["location"] == "/login"
    page = person.get(auth_server.authorization_url(client.id, Pkce()))
    assert "/login" in str(page.url)
    assert person.sign_in(page).status_code == 401


@pytest.mark.parametrize("scope", ["other:use", "openid", "offline_access", "mcp:*", "*", "admin", "mcp:basic admin"])
def test_cve_2024_52287_a_scope_that_the_resource_does_not_have_is_refused(
    auth_server: AuthServer, person: Person, scope: str
) -> None:
    client = auth_server.register(scope=scope)
    answer = person.browser.get(auth_server.authorization_url(client.id, Pkce(), scope=scope))
    assert "error=invalid_scope" in answer.headers["location"]
    secret = auth_server.register(
        grant_types=["authorization_code", "client_credentials"], token_endpoint_auth_method="client_secret_basic"
    )
    answer = auth_server.token((secret.id, secret.secret or ""), grant_type="client_credentials", scope=scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
