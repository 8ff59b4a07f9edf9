"""Identities that an operator writes."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from keystile_auth.identity import Identity
from keystile_auth.identity.plugin import PluginError, PluginIdentity
from keystile_auth.identity.settings import IdentitySettings
from tests.auth_server import PASSWORD, RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer
from tests.person import Person, form

EXAMPLE = Path(__file__).parents[3] / "examples" / "identity_plugin"
Start = Callable[..., AuthServer]


class Staff:
    """A plugin whose answer a test chooses."""

    answer: Any = None
    found: Any = None

    async def authenticate(self, username: str, password: str) -> Any:  # noqa: ARG002 (a plugin's signature)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Findable(Staff):
    async def find(self, subject: str) -> Any:  # noqa: ARG002 (a plugin's signature)
        return self.found


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("a_plugin")
    monkeypatch.setitem(sys.modules, "a_plugin", made)
    return made


def plugin(factory: str = "factory", **changes: Any) -> dict[str, Any]:
    return {"kind": "plugin", "plugin": f"a_plugin:{factory}", "title": "Staff", **changes}


def sign_in(server: AuthServer, username: str, password: str, **fields: str) -> Any:
    person = Person(server.issuer, username, password)
    server.people.append(person)
    page = person.get(f"{server.issuer}/account")
    return person.submit(form(page, "/login"), username=username, password=password, **fields)


def test_the_example_signs_people_in_with_their_groups(start_auth_server: Start, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    mcp = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}
    server = start_auth_server(
        identity={"badges": {"kind": "plugin", "plugin": "badges:Badges"}},
        resources={"mcp": {**mcp, "user_scopes": {"badges/engineering": ["mcp:basic"]}}},
    )
    person = Person(server.issuer, "4711", "2580")
    server.people.append(person)
    issued = server.tokens(server.register().id, person)
    answer = server.introspect(issued["access_token"])
    assert answer["username"] == "badges/Ada Lovelace"
    assert answer["grantable_scope"] == "mcp:basic"
    for badge, pin in (("4711", "0000"), ("4711", ""), ("1", "2580"), ("1", "")):
        assert sign_in(server, badge, pin).status_code == 401


def test_a_password_goes_to_the_identity_that_was_chosen_and_to_no_other(
    start_auth_server: Start, module: ModuleType
) -> None:
    staff = Staff()
    module.factory = lambda: staff  # type: ignore[attr-defined]
    server = start_auth_server(identity={"local": {"kind": "local"}, "staff": plugin()})
    server.add_user("ada")
    staff.answer = Identity("7", "ada")
    assert "ada" in sign_in(server, "ada", PASSWORD, identity="local").text
    assert sign_in(server, "ada", "anything", identity="local").status_code == 401
    assert "staff/ada" in sign_in(server, "ada", "anything", identity="staff").text
    assert sign_in(server, "ada", "x" * 1025, identity="staff").status_code == 401
    assert sign_in(server, "ada", "anything", identity="nobody").status_code == 400
    reasons = [event["reason"] for event in server.events("user.login")]
    assert reasons == ["local success", "local failure", "staff success", "staff failure"]


@pytest.mark.parametrize("answer", [RuntimeError("the password is hunter2"), "yes", True], ids=repr)
def test_a_plugin_that_fails_lets_nobody_in(
    start_auth_server: Start, module: ModuleType, answer: Any, capsys: Any
) -> None:
    staff = Staff()
    staff.answer = answer
    module.factory = lambda: staff  # type: ignore[attr-defined]
    server = start_auth_server(identity={"staff": plugin()})
    page = sign_in(server, "ada", "hunter2")
    assert page.status_code == 503
    assert "Staff does not answer" in page.text
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_plugin_that_can_find_people_is_asked_again_and_may_say_that_they_are_gone(
    start_auth_server: Start, module: ModuleType
) -> None:
    staff = Findable()
    staff.answer = staff.found = Identity("7", "ada")
    module.factory = lambda: staff  # type: ignore[attr-defined]
    now = [1_800_000_000.0]
    server = start_auth_server(identity={"staff": plugin(recheck_seconds=60)}, clock=lambda: now[0])
    client = server.register().id
    issued = server.tokens(client, server.person("ada"))
    now[0] += 61
    second = server.refresh(client, issued["refresh_token"])
    assert second.status_code == 200
    staff.found = Identity("8", "eve")
    now[0] += 61
    assert server.refresh(client, second.json()["refresh_token"]).status_code == 503
    staff.found = None
    assert server.refresh(client, second.json()["refresh_token"]).json()["error"] == "invalid_grant"
    assert not server.is_active(second.json()["access_token"])


def test_without_find_people_sign_in_again(start_auth_server: Start, module: ModuleType) -> None:
    staff = Staff()
    staff.answer = Identity("7", "ada")
    module.factory = lambda: staff  # type: ignore[attr-defined]
    now = [1_800_000_000.0]
    server = start_auth_server(identity={"staff": plugin(recheck_seconds=60)}, clock=lambda: now[0])
    client, person = server.register().id, server.person("ada")
    issued = server.tokens(client, person)
    now[0] += 61
    assert server.refresh(client, issued["refresh_token"]).json()["error"] == "invalid_grant"
    assert "Sign in" in person.get(f"{server.issuer}/account").text


def test_a_plugin_s_user_who_was_disabled_here_stays_out(start_auth_server: Start, module: ModuleType) -> None:
    staff = Staff()
    staff.answer = Identity("7", "ada")
    module.factory = lambda: staff  # type: ignore[attr-defined]
    server = start_auth_server(identity={"staff": plugin()})
    assert sign_in(server, "ada", "anything").status_code == 200
    sub = server.events("user.login")[0]["actor"]["sub"]

    async def disable(users: Any) -> None:
        (user,) = [each for each in await users.all() if each.sub == sub]
        await users.set_disabled(user, disabled=True)

    server.in_store(disable)
    assert sign_in(server, "ada", "anything").status_code == 401


@pytest.mark.parametrize("path", ["no_such_module:factory", "a_plugin:no_such", "a_plugin:fails", "a_plugin:empty"])
def test_a_plugin_that_cannot_be_loaded_is_a_mistake_in_the_settings(module: ModuleType, path: str) -> None:
    module.fails = lambda: 1 / 0  # type: ignore[attr-defined]
    module.empty = object  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match=f"identity.staff.plugin: .*{path}"):
        PluginIdentity("staff", IdentitySettings(kind="plugin", plugin=path))


@pytest.mark.parametrize(("subject", "groups"), [("", ()), ("x" * 256, ()), ("new\nline", ()), (7, ())])
def test_an_identity_without_a_subject_cannot_be(subject: Any, groups: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a subject has"):
        Identity(subject, "ada", groups)


def test_an_identity_drops_what_is_no_group_and_no_name() -> None:
    identity = Identity("7", "\x00", ("a", "b" * 257, 7, *map(str, range(2000))))  # type: ignore[arg-type]
    assert identity.username == "7"
    assert identity.groups[:2] == ("a", "0")
    assert len(identity.groups) == 1000
