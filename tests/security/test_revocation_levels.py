"""CVE-2026-8922: no level of revocation hides another. A token is active only while nothing above it has ended."""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from opentelemetry.trace import NoOpTracer

from keystile_auth.app import create_metrics
from keystile_auth.clients.client import Client, Source
from keystile_auth.errors import OAuthError
from keystile_auth.grants.authorization_code import AuthorizationCodeGrant, CodeRequest
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.grants.client_credentials import ClientCredentialsGrant
from keystile_auth.grants.refresh_token import RefreshRequest, RefreshTokenGrant
from keystile_auth.grants.resource_owner import ResourceOwners
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.local import LocalUsers
from keystile_auth.identity.settings import IdentitySettings
from keystile_auth.settings import TokenSettings
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.held_grants import HeldGrants
from keystile_auth.store.signing_keys import SigningKeyStore
from keystile_auth.store.upstream import UpstreamStore
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens import opaque
from keystile_auth.tokens.access_token import AccessTokens
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.resources import Resource, Resources
from keystile_auth.tokens.signing_keys import SigningKeys
from keystile_common.settings import StoreSettings
from keystile_common.store import connect
from tests.auth_server import CALLBACK, RESOURCE, SCOPES, Pkce
from tests.stores import settings_of

_T = TypeVar("_T")
ISSUER = "https://auth.example"


@dataclass
class Issued:
    """A grant as the model knows it: who is above it, its tokens, and which of them ended by themselves."""

    user: str | None
    client: Client
    access: list[str]
    refresh: list[str] = field(default_factory=list)
    code: str | None = None
    pkce: Pkce = field(default_factory=Pkce)
    ended: bool = False
    revoked: set[str] = field(default_factory=set)


class Revocations(RuleBasedStateMachine):
    store_url = ""
    access_token = "opaque"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = connect(
            StoreSettings.model_validate(settings_of(self.store_url)), create_metrics().store, NoOpTracer()
        )
        self.grants, self.users, self.clients = GrantStore(self.store), UserStore(self.store), ClientStore(self.store)
        resource = Resource("mcp", RESOURCE, "Tools", SCOPES, tuple(SCOPES), self.access_token)
        resources, tokens = Resources({"mcp": resource}), opaque.RefreshTokens(MasterKey(b"k" * 32))
        lifetimes = TokenSettings(refresh_grace_seconds=0)
        self.resource = resource
        keys = SigningKeys(SigningKeyStore(self.store), MasterKey(b"k" * 32), 30 * 86400, time.time)
        self.run(keys.load())
        self.access_tokens = AccessTokens(ISSUER, lifetimes.access_token_seconds, keys)
        made = (resources, tokens, self.access_tokens, lifetimes)
        owners = ResourceOwners(self.identities(), self.grants)
        held = HeldGrants(self.store, self.grants, self.clients, self.users)
        self.codes = AuthorizationCodeGrant(self.grants, held, self.clients, owners, *made)
        self.refreshes = RefreshTokenGrant(self.grants, held, owners, *made)
        self.own = ClientCredentialsGrant(self.grants, resources, self.access_tokens)
        self.issued: list[Issued] = []
        self.disabled: set[str] = set()
        self.deleted: set[str] = set()

    def identities(self) -> Identities:
        only_local = {"local": IdentitySettings(kind="local")}
        local, upstream = LocalUsers(self.users), UpstreamStore(self.store)
        key, metrics = MasterKey(b"k" * 32), create_metrics().jwks
        return Identities(only_local, ISSUER, local, self.users, upstream, key, time.time, metrics)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @initialize()
    def two_users_and_two_clients(self) -> None:
        self.people = [
            User(f"user_{secrets.token_hex(8)}", f"n-{secrets.token_hex(8)}", "x", disabled=False, created=0)
            for _ in range(2)
        ]
        self.programs = [
            Client(
                id=f"c-{secrets.token_hex(8)}", name="x", source=Source.OPERATOR, redirect_uris=(CALLBACK,),
                auth_methods=("client_secret_basic",), resources=(RESOURCE,), scopes=tuple(SCOPES),
                grant_types=("authorization_code", "refresh_token", "client_credentials"),
            )
            for _ in range(2)
        ]  # fmt: skip
        for user in self.people:
            assert self.run(self.users.add(user))
        for client in self.programs:
            assert self.run(self.clients.add(client.id, client.to_json(), seconds=None))

    @rule(which=st.integers(0, 1), who=st.integers(0, 1))
    def a_user_connects_a_client(self, which: int, who: int) -> None:
        user, client, pkce = self.people[who], self.programs[which], Pkce()
        if client.id in self.deleted or user.sub in self.disabled:
            return
        asked = AuthorizationRequest(client, CALLBACK, None, self.resource, tuple(SCOPES), pkce.challenge)
        code, _ = self.run(self.codes.issue(asked, user))
        self.issued.append(Issued(user.sub, client, [], code=code, pkce=pkce))

    @rule(data=st.data())
    @precondition(lambda self: any(each.code for each in self.issued))
    def a_code_is_redeemed(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([each for each in self.issued if each.code]))
        found = self.run(self.codes.find(grant.code or ""))
        request = CodeRequest(found, grant.pkce.verifier, None, None, secrets.token_hex(6))
        may = not self.has_ended(grant) and not grant.access
        try:
            answer = self.run(self.codes.redeem(grant.client, request))
        except OAuthError:
            assert not may
            grant.ended = True  # a second redemption ends it
        else:
            assert may
            grant.access, grant.refresh = [answer.access_token], [answer.refresh_token or ""]

    @rule(which=st.integers(0, 1))
    def a_client_gets_a_token_for_itself(self, which: int) -> None:
        client = self.programs[which]
        if client.id not in self.deleted:
            answer = self.run(self.own.issue(client, RESOURCE, None))
            self.issued.append(Issued(None, client, [answer.access_token]))

    @rule(data=st.data())
    @precondition(lambda self: any(each.refresh for each in self.issued))
    def a_grant_is_refreshed(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([each for each in self.issued if each.refresh]))
        token = data.draw(st.sampled_from(grant.refresh))
        request = RefreshRequest(self.run(self.refreshes.find(token)), None, None, secrets.token_hex(6))
        may = not self.has_ended(grant) and token == grant.refresh[-1]
        try:
            answer = self.run(self.refreshes.rotate(grant.client, request))
        except OAuthError:
            assert not may
            grant.ended = True  # an old one ends the family
        else:
            assert may
            grant.access.append(answer.access_token)
            grant.refresh.append(answer.refresh_token or "")

    @rule(data=st.data())
    @precondition(lambda self: any(each.access for each in self.issued))
    def an_access_token_is_revoked(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([each for each in self.issued if each.access]))
        text = data.draw(st.sampled_from(grant.access))
        token = self.run(self.access_tokens.find_name(text))
        assert token is not None
        self.run(self.grants.revoke_access_token(token.grant_id, token.hash))
        grant.revoked.add(text)

    @rule(data=st.data())
    @precondition(lambda self: any(each.code for each in self.issued))
    def a_grant_is_ended(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([each for each in self.issued if each.code]))
        code = opaque.parse_code(grant.code or "")
        assert code is not None
        self.run(self.grants.end(code.grant_id, "user"))
        grant.ended = True

    @rule(who=st.integers(0, 1))
    def a_user_is_disabled(self, who: int) -> None:
        user = self.people[who]
        self.run(self.users.set_disabled(user, disabled=True))
        self.run(self.grants.end_all_of_user(user.sub, "user_disabled"))
        self.disabled.add(user.sub)
        for grant in self.issued:
            grant.ended = grant.ended or grant.user == user.sub

    @rule(who=st.integers(0, 1))
    def a_user_is_enabled_again(self, who: int) -> None:
        self.run(self.users.set_disabled(self.people[who], disabled=False))
        self.disabled.discard(self.people[who].sub)

    @rule(which=st.integers(0, 1))
    def a_client_is_deleted(self, which: int) -> None:
        client = self.programs[which]
        self.run(self.clients.delete(client.id))
        self.run(self.grants.end_all_of_client(client.id, "client_deleted"))
        self.deleted.add(client.id)

    def has_ended(self, grant: Issued) -> bool:
        return grant.ended or grant.user in self.disabled or grant.client.id in self.deleted

    @invariant()
    def a_token_is_active_only_while_nothing_above_it_has_ended(self) -> None:
        for grant in self.issued:
            for text in grant.access:
                token = self.run(self.access_tokens.find_name(text))
                assert token is not None
                active = self.run(self.grants.find_access_token(token.grant_id, token.hash)) is not None
                assert active == (not self.has_ended(grant) and text not in grant.revoked)


@pytest.mark.parametrize("access_token", ["opaque", "jwt"])
def test_after_any_sequence_of_events_a_token_is_active_only_while_nothing_above_it_has_ended(
    store_url: str, access_token: str
) -> None:
    machine = type("Machine", (Revocations,), {"store_url": store_url, "access_token": access_token})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None, database=None)
    )
