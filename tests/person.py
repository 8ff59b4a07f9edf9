"""A person with a browser: keeps cookies, fills in forms, follows redirects until they leave the server."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx2

_REDIRECTS = {302, 303}


@dataclass
class Form:
    """A form of a page: where it goes, its hidden and visible fields."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values: dict[str, Any] = dict(attrs)
        if tag == "form":
            self.forms.append(Form(values.get("action") or ""))
        elif tag == "input" and self.forms and values.get("name"):
            self.forms[-1].fields[values["name"]] = values.get("value") or ""


def forms(page: httpx2.Response) -> list[Form]:
    """The forms of a page, their actions as absolute URLs."""
    parser = _Forms()
    parser.feed(page.text)
    for form in parser.forms:
        form.action = urljoin(str(page.url), form.action)
    return parser.forms


def form(page: httpx2.Response, action: str) -> Form:
    """The form of a page whose action ends with `action`."""
    found = [each for each in forms(page) if each.action.endswith(action)]
    assert found, f"no form to {action} on a page with status {page.status_code}: {page.text[:2000]}"
    return found[0]


class Person:
    """Somebody who signs in and decides."""

    def __init__(self, issuer: str, username: str, password: str) -> None:
        self.issuer = issuer
        self.username = username
        self.password = password
        self.browser = httpx2.Client(timeout=10, headers={"Accept": "text/html"})

    def get(self, url: str) -> httpx2.Response:
        """Open a page and follow redirects within the server."""
        return self._follow(self.browser.get(url))

    def submit(self, form: Form, **fields: str) -> httpx2.Response:
        """Send a form with what the person typed."""
        return self._follow(self.browser.post(form.action, data={**form.fields, **fields}))

    def sign_in(self, page: httpx2.Response) -> httpx2.Response:
        """Fill in the sign-in page."""
        return self.submit(form(page, "/login"), username=self.username, password=self.password)

    def decide(self, authorization_url: str, decision: str) -> str:
        """Sign in if asked, decide if asked; answers the URL that the browser was sent to at the client."""
        page = self.get(authorization_url)
        if page.status_code == 200 and "/login" in str(page.url):
            page = self.sign_in(page)
        if page.status_code == 200 and "/consent" in str(page.url):
            page = self.submit(form(page, "/consent"), decision=decision)
        assert page.status_code in _REDIRECTS, f"{page.status_code}: {page.text[:2000]}"
        return page.headers["location"]

    def allow(self, authorization_url: str) -> str:
        """As `decide`, consenting."""
        return self.decide(authorization_url, "allow")

    def _follow(self, answer: httpx2.Response) -> httpx2.Response:
        for _ in range(10):
            if answer.status_code not in _REDIRECTS:
                return answer
            target = urljoin(str(answer.url), answer.headers["location"])
            if not target.startswith(self.issuer + "/"):
                return answer
            answer = self.browser.get(target)
        raise AssertionError("redirected more than ten times")
