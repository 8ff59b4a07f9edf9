"""Any pod serves any request."""

import itertools

from tests.e2e.named_pods import named_pods
from tests.e2e.site import Site


def test_a_login_goes_on_at_another_pod_at_each_step(site: Site) -> None:
    with named_pods(site.kubernetes, "auth", 3001) as auth, site.http(auth) as http:
        client = site.sign_in(http, transport=auth)
        assert site.refresh(http, client).status_code == 200
    paths = [path for _, path in auth.visits]
    assert {"/register", "/authorize", "/login", "/token"} <= set(paths)
    assert any(path.startswith("/consent") for path in paths)
    for (pod, _), (next_pod, path) in itertools.pairwise(auth.visits):
        assert pod != next_pod, f"{path} was asked of the pod of the step before"

    with named_pods(site.kubernetes, "mcp", 3232) as mcp, site.http(mcp) as http:
        for _ in range(4):
            assert site.call_tool(http, client.access_token).status_code == 200
    assert len({pod for pod, _ in mcp.visits}) >= 2
