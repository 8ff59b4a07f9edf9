"""A resource whose proof stands in the body proves itself anew with each request that it sends on one connection."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from keystile_auth.clients.authentication import JWT_BEARER, PresentedCredentials, Proofs, Provable
from tests.auth_server import (
    OTHER_RESOURCE,
    OTHER_SECRET,
    RESOURCE,
    RESOURCE_SECRET,
    SCOPES,
    AuthServer,
    running_auth_server,
)
from tests.client_key import ClientKey, key_set
from tests.clock import Clock
from tests.cluster import Cluster, running_cluster
from tests.kept_connection import Answer, KeptConnection, post

OWN_KEY = ClientKey.generate()


class Scene(NamedTuple):
    """A server in a cluster, its clock, and the way to count what it checks."""

    server: AuthServer
    cluster: Cluster
    clock: Clock
    checked: list[str]

    def pod(self, **claims: int) -> str:
        """The rest of a form, behind the token: the proof of `mcp`, a pod."""
        return proof("mcp", self.cluster.token(self.server.issuer, "tools/mcp", **claims))

    def token(self) -> str:
        """A new access token for `mcp`."""
        return str(self.server.tokens(self.server.register().id)["access_token"])


@pytest.fixture
def scene(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    resources = {
        "mcp": {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "service_account": "tools/mcp"},
        "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "secret": OTHER_SECRET},
        "keyed": {
            "uri": f"{OTHER_RESOURCE}/keyed",
            "title": "Keyed",
            "scopes": {"keyed:use": "Use"},
            "jwks": key_set(OWN_KEY),
        },
    }
    checked: list[str] = []
    check = Proofs.check

    async def counting(self: Proofs, presented: PresentedCredentials, program: Provable) -> float:
        checked.append(presented.client_id)
        return await check(self, presented, program)

    monkeypatch.setattr(Proofs, "check", counting)
    clock = Clock()
    with running_cluster(tmp_path) as cluster:
        kubernetes = {"url": cluster.url, "token_file": str(cluster.token_file)}
        with running_auth_server(store_url, clock=clock, resources=resources, kubernetes=kubernetes) as server:
            yield Scene(server, cluster, clock, checked)


@pytest.fixture
def kept(scene: Scene) -> Iterator[KeptConnection]:
    with KeptConnection(scene.server.issuer) as connection:
        yield connection


def proof(client_id: str, assertion: str) -> str:
    form = {"client_id": client_id, "client_assertion_type": JWT_BEARER, "client_assertion": assertion}
    return "&token_type_hint=access_token&" + urlencode(form)


def asked(token: str, rest: str, **headers: str) -> bytes:
    return post("/introspect", f"token={token}{rest}", **headers)


def is_active(answer: Answer) -> bool:
    assert answer.status == 200, answer.body
    return bool(json.loads(answer.body)["active"])


def test_a_pods_token_is_checked_with_the_first_of_its_requests(scene: Scene, kept: KeptConnection) -> None:
    rest, tokens = scene.pod(), [scene.token() for _ in range(2)]
    assert is_active(kept.ask(asked(tokens[0], rest)))
    before = list(scene.checked)
    answers = [kept.ask(asked(token, rest)) for token in [*tokens, "x" * 56, *tokens]]
    assert [is_active(answer) for answer in answers] == [True, True, False, True, True]
    assert answers[0].headers == answers[1].headers
    # "x" is no form that is known, so it goes the long way, and the one behind it is a first one again.
    assert scene.checked == [*before, "mcp"]


def test_what_one_connection_has_proved_holds_on_another(scene: Scene, kept: KeptConnection) -> None:
    rest, token = scene.pod(), scene.token()
    assert is_active(kept.ask(asked(token, rest)))
    before = list(scene.checked)
    with KeptConnection(scene.server.issuer) as other:
        assert is_active(other.ask(asked(token, rest)))
        assert other.ask(asked(token, rest[:-1] + ("A" if rest[-1] != "A" else "B"))).status == 401
    assert scene.checked == [*before, "mcp"]


def test_a_token_that_was_revoked_is_not_active_any_more(scene: Scene, kept: KeptConnection) -> None:
    client = scene.server.register()
    tokens = scene.server.tokens(client.id)
    request = asked(tokens["access_token"], scene.pod())
    for _ in range(3):
        assert is_active(kept.ask(request))
    data = {"client_id": client.id, "token": tokens["refresh_token"]}
    assert scene.server.http.post(f"{scene.server.issuer}/revoke", data=data).status_code == 200
    assert not is_active(kept.ask(request))


def test_a_pods_token_proves_nothing_once_it_has_expired(scene: Scene, kept: KeptConnection) -> None:
    request = asked(scene.token(), scene.pod(exp=int(time.time()) + 100))
    for _ in range(3):
        assert is_active(kept.ask(request))
    scene.clock.ahead = 125
    assert is_active(kept.ask(request)), "clocks may be 30 seconds apart"
    scene.clock.ahead = 131
    for _ in range(3):
        assert kept.ask(request).status == 401
    with KeptConnection(scene.server.issuer) as other:
        assert other.ask(request).status == 401


def test_another_pods_token_is_refused(scene: Scene, kept: KeptConnection) -> None:
    token, right = scene.token(), scene.pod()
    for _ in range(2):
        assert is_active(kept.ask(asked(token, right)))
    stranger = proof("mcp", scene.cluster.token(scene.server.issuer, "tools/mcq"))
    assert len(stranger) == len(right)
    for _ in range(3):
        assert kept.ask(asked(token, stranger)).status == 401
    assert is_active(kept.ask(asked(token, right)))


@pytest.mark.parametrize("more", ["&token=x", "&client_id=other", "&client_secret=x", "&unknown=%00", "\n", "&"])
def test_what_stands_behind_the_proof_is_read_as_strictly(scene: Scene, kept: KeptConnection, more: str) -> None:
    token, rest = scene.token(), scene.pod()
    for _ in range(2):
        assert is_active(kept.ask(asked(token, rest)))
    answers = [kept.ask(asked(token, rest + more)) for _ in range(3)]
    with KeptConnection(scene.server.issuer) as other:
        assert answers == [other.ask(asked(token, rest + more))] * 3
    assert all(answer.status == (200 if more == "&" else 400) for answer in answers)


@pytest.mark.parametrize("header", ["Basic b3RoZXI6eA==", "Bearer x", ""])
def test_a_proof_in_the_body_beside_a_header_is_refused(scene: Scene, kept: KeptConnection, header: str) -> None:
    token, rest = scene.token(), scene.pod()
    for _ in range(2):
        assert is_active(kept.ask(asked(token, rest)))
    for _ in range(3):
        assert kept.ask(asked(token, rest, Authorization=header)).status == 400


def test_the_text_of_a_proof_proves_nothing_in_another_place(scene: Scene, kept: KeptConnection) -> None:
    token, rest = scene.token(), scene.pod()
    for _ in range(2):
        assert is_active(kept.ask(asked(token, rest)))
    assert kept.ask(asked(token, "", Authorization=rest)).status == 401


def test_an_assertion_that_is_signed_for_one_request_is_refused_in_the_next(scene: Scene, kept: KeptConnection) -> None:
    token = scene.token()
    for _ in range(3):
        request = asked(token, proof("keyed", OWN_KEY.assertion("keyed", scene.server.issuer)))
        assert not is_active(kept.ask(request))
        assert kept.ask(request).status == 401


def test_a_secret_in_the_body_is_checked_in_each_character(store_url: str) -> None:
    with running_auth_server(store_url) as server:
        token = server.tokens(server.register().id)["access_token"]
        right = f"&client_id=mcp&client_secret={RESOURCE_SECRET}"
        with KeptConnection(server.issuer) as kept:
            for _ in range(3):
                assert is_active(kept.ask(asked(token, right)))
            for _ in range(3):
                assert kept.ask(asked(token, right[:-1] + "!")).status == 401
            assert is_active(kept.ask(asked(token, right)))
