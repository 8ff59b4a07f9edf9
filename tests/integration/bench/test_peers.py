"""Servers that others made answer what is measured of them, and refuse what they must."""

import json

import pytest

from bench.authorization import client_credentials, introspections, redemptions
from bench.authorization_server import RESOURCE, SCOPE, basic
from bench.http_load import bodies_of, form_request, run
from bench.peers import servers
from bench.peers.authorization import assert_active, tokens_in
from bench.peers.sdk_example import code_text


def test_the_sdks_example_redeems_a_code_once_and_knows_its_token() -> None:
    with servers.sdk_example(2) as target:
        redeem, another = (redemptions(target.url, [code_text(number)])()[0](None) for number in range(2))
        [token] = tokens_in(bodies_of(target.url, [redeem, another], 1))
        known, unknown = introspections(target.url, [token, "nobody's"])
        assert_active(target.url, known)
        assert bodies_of(target.url, [unknown] * 2, 1) == [b'{"active":false}']
        assert len(run(target.url, 1, [lambda _: redeem]).refused) == 1


@pytest.mark.node
def test_oidc_provider_gives_opaque_tokens_for_the_resource_and_knows_them() -> None:
    with servers.oidc_provider() as target:
        parameters = {"grant_type": "client_credentials", "resource": RESOURCE, "scope": SCOPE}
        asking = form_request(f"{target.url}/token", parameters, basic("machine"))
        [answer] = bodies_of(target.url, [asking] * 2, 1)
        assert json.loads(answer)["scope"] == SCOPE
        [token] = tokens_in([answer])
        assert "." not in token

        def question(of: str, by: str) -> bytes:
            return form_request(f"{target.url}/token/introspection", {"token": of}, by)

        assert_active(target.url, question(token, basic("tools")))
        assert bodies_of(target.url, [question("nobody's", basic("tools"))] * 2, 1) == [b'{"active":false}']
        assert len(run(target.url, 1, [lambda _: question(token, "Basic dG9vbHM6d3Jvbmc=")]).refused) == 1
        assert len(run(target.url, 1, [lambda _: client_credentials(target.url, "https://x")[0]]).refused) == 1
