"""Pods come and go under constant traffic, and no client notices."""

from collections.abc import Callable

import httpx2

from tests.e2e.site import SignedIn, Site
from tests.e2e.traffic import traffic

AUTH, MCP = "deployment/keystile-auth", "deployment/keystile-mcp"


def _kept(site: Site, http: httpx2.Client, clients: list[SignedIn]) -> None:
    for client in clients:
        assert site.refresh(http, client).status_code == 200
        assert site.call_tool(http, client.access_token).status_code == 200


def _roll(site: Site, http: httpx2.Client, what: str, change: Callable[[], None]) -> None:
    clients = [site.sign_in(http) for _ in range(3)]
    with site.person() as person:
        person.sign_in(person.get(f"{site.issuer}/account"))
        with traffic(site) as tally:
            change()
        site.figures[f"traffic during {what}"] = str(tally)
        assert not tally.failures, "\n".join(tally.failures)
        assert min(tally.rounds[each] for each in ("logins", "refreshes", "tool calls")) >= 10
        page = person.get(f"{site.issuer}/account")
        assert page.status_code == 200
        assert str(page.url).endswith("/account"), "the person was signed out"
    _kept(site, http, clients)


def test_a_rolling_restart_of_auth_fails_no_request(site: Site, http: httpx2.Client) -> None:
    _roll(site, http, "a restart of auth", lambda: site.kubernetes.roll_out(AUTH))


def test_a_rolling_restart_of_mcp_fails_no_request(site: Site, http: httpx2.Client) -> None:
    _roll(site, http, "a restart of mcp", lambda: site.kubernetes.roll_out(MCP))


def test_an_upgrade_with_another_value_fails_no_request(
    site: Site, http: httpx2.Client, upgrade: Callable[..., None]
) -> None:
    def change() -> None:
        upgrade("--set", "observability.log.level=warning")
        site.kubernetes.wait_for_rollout(AUTH, MCP)

    _roll(site, http, "helm upgrade", change)
