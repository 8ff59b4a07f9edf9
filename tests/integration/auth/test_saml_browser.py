"""A real browser at a SAML identity provider of another site: what it posts from there has none of our cookies."""

import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Request, sync_playwright

from tests.auth_server import AuthServer
from tests.saml_provider import SamlProvider, running_saml_provider

pytestmark = [pytest.mark.browser, pytest.mark.xmlsec1]


@pytest.fixture
def provider() -> Iterator[SamlProvider]:
    with running_saml_provider() as running:
        # To browsers, the names of this machine are other sites than its addresses.
        elsewhere = running.origin.replace("127.0.0.1", "localhost")
        running.metadata_change = lambda text: text.replace(f"{running.origin}/sso", f"{elsewhere}/sso")
        yield running


@pytest.fixture
def browser(chromium_path: str) -> Iterator[Browser]:
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path, args=arguments)
        yield started
        started.close()


def test_the_browser_is_signed_in_though_its_post_came_without_cookies(
    start_auth_server: Callable[..., AuthServer], provider: SamlProvider, browser: Browser
) -> None:
    server = start_auth_server(identity={"local": {"kind": "local"}, "corp": provider.settings(title="Corp")})
    page = browser.new_page()
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))  # noqa: PLW0108 (it must be able to mark it)
    for _ in range(2):  # the second time, the page knows where its form leads to
        page.goto(f"{server.issuer}/account")
        page.get_by_role("button", name="Corp").click()
        page.wait_for_url(f"{server.issuer}/account")
        assert "corp/ada" in page.content()
        page.context.clear_cookies()
    sent = {path: [each for each in requests if path in each.url] for path in ("/acs", "/finish")}
    assert len(sent["/acs"]) == len(sent["/finish"]) == 2
    assert all("cookie" not in each.all_headers() for each in sent["/acs"])
    assert all("cookie" in each.all_headers() for each in sent["/finish"])
