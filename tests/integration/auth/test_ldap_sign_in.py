"""Signing in with a directory: a real OpenLDAP with groups, a password policy, and entries like Active Directory's."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from keystile_auth.identity import ldap
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError
from tests.auth_server import RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer
from tests.clock import Clock
from tests.openldap import (
    GROUPS,
    NORMAL_ACCOUNT,
    PASSWORD,
    POLICIES,
    STAFF,
    SUFFIX,
    TEAMS,
    OpenLdap,
    running_openldap,
)
from tests.person import Person, form

pytestmark = [pytest.mark.docker, pytest.mark.ldap]

Start = Callable[..., AuthServer]
WRONG = "The user name or the password is wrong."
ACTIVE_DIRECTORY = {"directory": "active_directory", "user_base": STAFF}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenLdap]:
    """One container for the tests of this file."""
    with running_openldap(tmp_path_factory.mktemp("directory")) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(start_auth_server: Start, directory: OpenLdap, clock: Clock) -> Start:
    """Starts servers with the directory as `corp`; the arguments change its settings."""

    def started(user_scopes: dict[str, list[str]] | None = None, **changes: Any) -> AuthServer:
        mcp = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}
        return start_auth_server(
            clock=clock,
            identity={"corp": directory.settings(**changes)},
            resources={"mcp": {**mcp, "user_scopes": user_scopes or {}}},
        )

    return started


def person(server: AuthServer, username: str, password: str = PASSWORD) -> Person:
    somebody = Person(server.issuer, username, password)
    server.people.append(somebody)
    return somebody


def sign_in(server: AuthServer, username: str, password: str = PASSWORD) -> Any:
    somebody = person(server, username, password)
    return somebody.sign_in(somebody.get(f"{server.issuer}/account"))


def reason(server: AuthServer) -> str:
    """What the audit log says of the last sign-in."""
    return str(server.events("user.login")[-1]["reason"])


def granted(server: AuthServer, username: str) -> str:
    """The scopes that somebody is granted who asks for all."""
    issued = server.tokens(server.register().id, person(server, username), scope=" ".join(SCOPES))
    return str(server.introspect(issued["access_token"])["scope"])


def test_somebody_signs_in_by_the_pages_and_has_the_scopes_of_the_groups_there(
    start: Start, directory: OpenLdap
) -> None:
    ada = directory.person()
    directory.group(f"engineering-{ada}", directory.dn(ada))
    server = start({"corp": ["mcp:basic"], f"corp/engineering-{ada}": ["mcp:jobs"]}, group_base=GROUPS)
    issued = server.tokens(server.register().id, person(server, ada), scope="mcp:basic mcp:jobs")
    answer = server.introspect(issued["access_token"])
    assert answer["username"] == f"corp/{ada}"
    assert answer["scope"] == "mcp:basic mcp:jobs"
    assert granted(server, directory.person()) == "mcp:basic"


def test_without_a_group_base_memberof_counts_and_groups_are_named_by_their_dn(
    start: Start, directory: OpenLdap
) -> None:
    ada = directory.person()
    group = directory.group(f"engineering-{ada}", directory.dn(ada))
    server = start({"corp": ["mcp:basic"], f"corp/{group}": ["mcp:jobs"], f"corp/engineering-{ada}": []})
    assert granted(server, ada) == "mcp:basic mcp:jobs"


def test_groups_within_groups_count_only_where_the_settings_say_so_and_cycles_end(
    start: Start, directory: OpenLdap
) -> None:
    ada = directory.person()
    inner = directory.group(f"inner-{ada}", directory.dn(ada))
    middle = directory.group(f"middle-{ada}", inner, base=TEAMS)
    outer = directory.group(f"outer-{ada}", middle)
    directory.group(f"unrelated-{ada}")
    directory.set(inner, member=outer)
    with directory.administrator() as connection:
        connection.modify_s(inner, [(0, "member", directory.dn(ada).encode())])
    scopes = {f"corp/outer-{ada}": ["mcp:jobs"], f"corp/inner-{ada}": ["mcp:basic"], f"corp/unrelated-{ada}": []}
    assert granted(start(scopes, group_base=SUFFIX, nested_groups=True), ada) == "mcp:basic mcp:jobs"
    assert granted(start(scopes, group_base=SUFFIX), ada) == "mcp:basic"


def test_a_name_that_two_groups_have_grants_nothing_but_their_dns_do(start: Start, directory: OpenLdap) -> None:
    ada, eve = directory.person(), directory.person()
    ours = directory.group(f"admins-{ada}", directory.dn(ada))
    theirs = directory.group(f"admins-{ada}", directory.dn(eve), base=TEAMS)
    by_name = start({"corp": ["mcp:basic"], f"corp/admins-{ada}": ["mcp:jobs"]}, group_base=SUFFIX)
    assert granted(by_name, ada) == granted(by_name, eve) == "mcp:basic"
    by_dn = start(
        {"corp": ["mcp:basic"], f"corp/{ours}": ["mcp:jobs"], f"corp/{theirs}": []},
        group_base=SUFFIX,
        group_name_attribute="dn",
    )
    assert granted(by_dn, ada) == "mcp:basic mcp:jobs"
    assert granted(by_dn, eve) == "mcp:basic"
    apart = start({"corp": ["mcp:basic"], f"corp/admins-{ada}": ["mcp:jobs"]}, group_base=GROUPS)
    assert granted(apart, ada) == "mcp:basic mcp:jobs"
    assert granted(apart, eve) == "mcp:basic"


def test_a_group_that_gives_itself_the_name_of_another_has_it_not_and_takes_it_from_nobody_unseen(
    start: Start, directory: OpenLdap
) -> None:
    eve = directory.person()
    directory.add(
        f"cn=harmless-{eve},{TEAMS}", "groupOfNames", cn=[f"harmless-{eve}", f"admins-{eve}"], member=directory.dn(eve)
    )
    server = start({"corp": ["mcp:basic"], f"corp/admins-{eve}": ["mcp:jobs"]}, group_base=SUFFIX)
    assert granted(server, eve) == "mcp:basic"


def test_groups_that_list_names_instead_of_dns_are_found_too(start: Start, directory: OpenLdap) -> None:
    ada = directory.person()
    directory.add(f"cn=list-{ada},{GROUPS}", "groupOfNames", cn=f"list-{ada}", member=SUFFIX, description=ada)
    server = start({f"corp/list-{ada}": ["mcp:basic"]}, group_base=GROUPS, group_filter="(description={username})")
    assert granted(server, ada) == "mcp:basic"


def test_a_wrong_password_and_an_unknown_name_read_the_same_and_the_audit_log_tells_them_apart(
    start: Start, directory: OpenLdap
) -> None:
    ada = directory.person()
    server = start()
    wrong = sign_in(server, ada, "wrong")
    assert reason(server) == "corp failure: wrong password, or not to be bound to"
    unknown = sign_in(server, f"x{ada[1:]}")
    assert reason(server) == "corp failure: unknown name"
    assert wrong.status_code == unknown.status_code == 401
    assert WRONG in wrong.text

    def without_what_differs(page: Any) -> str:
        return re.sub(r'value="[^"]*"', "", str(page.text))

    assert without_what_differs(wrong) == without_what_differs(unknown)


def test_an_empty_password_is_never_shown_to_the_directory(start: Start, directory: OpenLdap) -> None:
    server = start()
    ada = directory.person()
    assert sign_in(server, ada, "").status_code == 401
    assert sign_in(server, "", PASSWORD).status_code == 401


def test_a_name_that_two_entries_have_lets_nobody_in(start: Start, directory: OpenLdap) -> None:
    ada, eve = directory.person(mail="both@example.com"), directory.person(mail="both@example.com")
    server = start(user_filter="(|(uid={username})(mail={username}))")
    assert sign_in(server, "both@example.com").status_code == 401
    assert reason(server) == "corp failure: several entries"
    assert sign_in(server, ada).status_code == sign_in(server, eve).status_code == 200


def test_whoever_the_filter_leaves_out_cannot_sign_in(start: Start, directory: OpenLdap) -> None:
    server = start(user_filter="(&(uid={username})(title=staff))")
    assert sign_in(server, directory.person()).status_code == 401
    assert sign_in(server, directory.person(title="staff")).status_code == 200


def test_the_password_policy_s_refusals_tell_only_that_a_password_has_to_be_changed(
    start: Start, directory: OpenLdap
) -> None:
    server = start()
    locked = directory.person()
    for _ in range(3):
        sign_in(server, locked, "wrong")
    page = sign_in(server, locked)
    assert (page.status_code, reason(server)) == (401, "corp failure: locked")
    assert WRONG in page.text

    fresh = directory.person()
    directory.set(directory.dn(fresh), pwdReset="TRUE")
    page = sign_in(server, fresh)
    assert (page.status_code, reason(server)) == (403, "corp failure: password must be changed")
    assert "Corp did not sign you in: your password must be changed there first." in page.text

    old = directory.person(pwdPolicySubentry=f"cn=brief,{POLICIES}")
    time.sleep(2.1)
    page = sign_in(server, old)
    assert (page.status_code, reason(server)) == (403, "corp failure: password expired")
    assert "Corp did not sign you in: your password has expired" in page.text
    assert sign_in(server, old, "wrong").status_code == 401


@pytest.mark.parametrize(
    ("attributes", "status", "why"),
    [
        ({"userAccountControl": str(NORMAL_ACCOUNT | 0x2)}, 401, "disabled"),
        ({"msDS_User_Account_Control_Computed": str(0x10)}, 401, "locked"),
        ({"msDS_User_Account_Control_Computed": str(0x800000)}, 403, "password expired"),
        ({"accountExpires": "132223104000000000"}, 401, "account expired"),
    ],
    ids=["disabled", "locked", "password expired", "account expired"],
)
def test_accounts_that_look_like_active_directory_s_are_refused_by_their_state(
    start: Start, directory: OpenLdap, attributes: dict[str, str], status: int, why: str
) -> None:
    server = start(**ACTIVE_DIRECTORY)
    assert sign_in(server, directory.staff()).status_code == 200
    assert sign_in(server, directory.staff(accountExpires="9223372036854775807")).status_code == 200
    name = directory.staff(**attributes)
    assert sign_in(server, name).status_code == status
    assert reason(server) == f"corp failure: {why}"


def test_where_the_state_of_accounts_is_not_shown_nobody_signs_in(start: Start, directory: OpenLdap) -> None:
    server = start(**ACTIVE_DIRECTORY)
    name = directory.staff()
    directory.set(f"cn={name},{STAFF}", userAccountControl=None)
    assert sign_in(server, name).status_code == 503


def test_whoever_is_still_there_goes_on_with_the_groups_and_the_name_of_now(
    start: Start, directory: OpenLdap, clock: Clock
) -> None:
    ada = directory.person()
    group = directory.group(f"engineering-{ada}", directory.dn(ada))
    server = start({"corp": ["mcp:basic"], f"corp/engineering-{ada}": ["mcp:jobs"]}, group_base=GROUPS)
    client = server.register().id
    issued = server.tokens(client, person(server, ada), scope="mcp:basic mcp:jobs")
    directory.rename(ada, f"{ada}x")
    directory.delete(group)
    clock.ahead = 61
    answer = server.refresh(client, issued["refresh_token"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["scope"] == "mcp:basic"
    sub = server.introspect(issued["access_token"]).get("sub")
    assert sign_in(server, f"{ada}X").status_code == 200
    assert server.events("user.login")[-1]["actor"]["sub"] == server.events("user.login")[0]["actor"]["sub"]
    assert sub in {None, server.events("user.login")[0]["actor"]["sub"]}


def _gone(directory: OpenLdap, uid: str) -> None:
    directory.delete(directory.dn(uid))


def _locked(directory: OpenLdap, uid: str) -> None:
    directory.set(directory.dn(uid), pwdAccountLockedTime="000001010000Z")


def _left_out(directory: OpenLdap, uid: str) -> None:
    directory.set(directory.dn(uid), title="former staff")


@pytest.mark.parametrize("happens", [_gone, _locked, _left_out])
def test_an_account_that_is_gone_locked_or_left_out_there_ends_here_at_the_next_check(
    start: Start, directory: OpenLdap, clock: Clock, happens: Callable[[OpenLdap, str], None]
) -> None:
    ada = directory.person(title="staff")
    server = start(user_filter="(&(uid={username})(title=staff))")
    client = server.register().id
    issued = server.tokens(client, person(server, ada))
    happens(directory, ada)
    assert server.is_active(issued["access_token"])
    clock.ahead = 61
    answer = server.refresh(client, issued["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert not server.is_active(issued["access_token"])


def test_an_account_that_is_disabled_as_active_directory_does_it_ends_here_at_the_next_check(
    start: Start, directory: OpenLdap, clock: Clock
) -> None:
    name = directory.staff()
    server = start(**ACTIVE_DIRECTORY)
    client = server.register().id
    issued = server.tokens(client, person(server, name))
    clock.ahead = 61
    issued = server.refresh(client, issued["refresh_token"]).json()
    directory.set(f"cn={name},{STAFF}", userAccountControl=str(NORMAL_ACCOUNT | 0x2))
    clock.ahead = 122
    assert server.refresh(client, issued["refresh_token"]).json()["error"] == "invalid_grant"
    assert not server.is_active(issued["access_token"])


def test_somebody_who_has_the_name_of_another_who_left_is_somebody_else(start: Start, directory: OpenLdap) -> None:
    server = start()
    ada = directory.person()
    assert sign_in(server, ada).status_code == sign_in(server, ada.upper()).status_code == 200
    directory.delete(directory.dn(ada))
    directory.person(uid=ada)
    assert sign_in(server, ada).status_code == 200
    first, again, other = (event["actor"]["sub"] for event in server.events("user.login"))
    assert first == again != other


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;"),
        (b"\xff\xfe\x00binary", None),
        ("x" * 100_000, "x" * 128),
        ("line\nline", None),
        ("\N{RIGHT-TO-LEFT OVERRIDE}eve", None),
    ],
    ids=["HTML", "bytes", "huge", "lines", "directions"],
)
def test_whatever_stands_in_a_name_the_pages_stay_whole(
    start: Start, directory: OpenLdap, value: str | bytes, shown: str | None
) -> None:
    # A photo takes any bytes, a description any text.
    attribute = "jpegPhoto" if isinstance(value, bytes) else "description"
    ada = directory.person(**{attribute: value})
    page = sign_in(start(username_attribute=attribute), ada)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.text
    assert shown is None or shown in page.text
    assert "x" * 129 not in page.text


def test_a_password_goes_to_the_directory_that_was_chosen(start_auth_server: Start, directory: OpenLdap) -> None:
    server = start_auth_server(identity={"local": {"kind": "local"}, "corp": directory.settings()})
    ada = directory.person()
    somebody = person(server, ada)
    page = somebody.get(f"{server.issuer}/account")
    assert somebody.submit(form(page, "/login"), username=ada, password=PASSWORD, identity="local").status_code == 401
    assert somebody.submit(form(page, "/login"), username=ada, password=PASSWORD, identity="corp").status_code == 200


def test_a_sign_in_leaves_no_secret_in_log_audit_or_metrics(
    start: Start, directory: OpenLdap, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()
    sign_in(server, directory.person())
    sign_in(server, directory.person(), "a wrong password of somebody")
    said = (
        "".join(capfd.readouterr()) + server.audit_lines.getvalue() + generate_latest(server.metrics.registry).decode()
    )
    for secret in (PASSWORD, "a wrong password of somebody", "service password of the tests"):
        assert secret not in said


def test_authorities_that_cannot_be_read_stop_the_start(directory: OpenLdap, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    problems = {tmp_path: "cannot read", tmp_path / "none": "cannot read", tmp_path / "empty": "holds no certificate"}
    for path, problem in problems.items():
        settings = IdentitySettings.model_validate(directory.settings(ca_file=str(path)))
        with pytest.raises(SettingsError, match=f"identity.corp.ca_file: .*{problem}"):
            ldap.directory("corp", settings)
