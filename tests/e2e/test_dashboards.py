"""What a real Prometheus scraped from the pods during all tests before this one."""

import json
import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.e2e.kubernetes import ROOT, eventually
from tests.e2e.site import Site
from tests.e2e.tls_inside import TlsInside
from tests.person import form

DASHBOARDS = sorted((ROOT / "charts" / "keystile" / "dashboards").glob("*.json"))
_GRAFANA = {"$namespace": "keystile", "$job": "keystile-.*", "$__rate_interval": "1h"}
"""What Grafana puts in before it asks; the interval spans all tests."""


def _queries() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"]
                for name, value in _GRAFANA.items():
                    query = query.replace(name, value)
                yield f"{path.stem}: {panel['title']}", query


@pytest.fixture(scope="module")
def prometheus(site: Site, tls_inside: TlsInside) -> Iterator[str]:
    """Where Prometheus answers, once it has seen what goes wrong too, and certificates inside the release."""
    with site.http() as http, site.person() as person:
        for _ in range(12):
            page = person.get(f"{site.issuer}/account")
            person.submit(form(page, "/login"), username="nobody", password="wrong")
        http.post(f"{site.issuer}/token", data={"grant_type": "refresh_token", "client_id": "nobody"})
        client = site.sign_in(http)
        http.post(f"{site.issuer}/token", data={"grant_type": "password", "client_id": client.client_id})
        form_data = {"client_id": client.client_id, "token": client.refresh_token}
        assert http.post(f"{site.issuer}/revoke", data=form_data).status_code == 200
        client_assertion = {"client_id": "helm-test", "client_secret": "wrong", "grant_type": "client_credentials"}
        http.post(f"{site.issuer}/token", data=client_assertion)
        site.call_tool(http, "no token of anybody")
    with site.kubernetes.port_forward("prometheus", 9090, namespace="monitoring") as port:
        yield f"http://127.0.0.1:{port}/api/v1"


def _ask(prometheus: str, query: str) -> list[object]:
    answer = httpx2.get(f"{prometheus}/query", params={"query": query}, timeout=20)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


def test_every_pod_is_scraped(prometheus: str, site: Site) -> None:
    pods = {*site.kubernetes.pods("auth"), *site.kubernetes.pods("mcp")}

    def up() -> bool:
        answer = httpx2.get(f"{prometheus}/query", params={"query": "up == 1"}, timeout=20).json()
        return pods <= {each["metric"]["pod"] for each in answer["data"]["result"]}

    eventually("every pod is up in Prometheus", up, 30)


@pytest.mark.parametrize(
    ("panel", "query"),
    [pytest.param(*each, id=re.sub(r"\W+", "-", each[0]) + f"-{i}") for i, each in enumerate(_queries())],
)
def test_no_query_of_a_dashboard_is_empty(panel: str, query: str, prometheus: str) -> None:
    eventually(f"{panel}: {query}", lambda: _ask(prometheus, query), 10)
