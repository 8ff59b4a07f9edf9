"""What an operator may say of a directory."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from keystile_auth.identity import ldap
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError

CORP = {
    "kind": "ldap",
    "urls": ["ldaps://dc1.example.com"],
    "bind_dn": "cn=keystile,dc=example,dc=com",
    "bind_password": "not to be shown",
    "user_base": "ou=people,dc=example,dc=com",
}


def settings(**changes: Any) -> IdentitySettings:
    return IdentitySettings.model_validate({name: v for name, v in {**CORP, **changes}.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"urls": None}, "urls is missing"),
        ({"bind_dn": None}, "bind_dn is missing"),
        ({"bind_password": None}, "bind_password is missing"),
        ({"user_base": None}, "user_base is missing"),
        ({"bind_password": ""}, "at least 1 item"),
        ({"urls": ["ldap://dc1.example.com"]}, "passwords would go in the clear"),
        ({"urls": ["ldap://127.0.0.1", "ldap://127.0.0.2"]}, "passwords would go in the clear"),
        ({"urls": ["ldaps://a.example", "ldap://b.example"]}, "passwords would go in the clear"),
        ({"start_tls": True}, "start_tls is for ldap:// URLs"),
        ({"urls": ["https://dc1.example.com"]}, "must be ldaps://host"),
        ({"urls": ["ldaps://DC1.example.com"]}, "in lower case"),
        ({"urls": ["ldaps:///dc=example"]}, "must be ldaps://host"),
        ({"urls": ["ldaps://dc1.example.com/dc=example?uid"]}, "a host and perhaps a port"),
        ({"urls": ["ldaps://user:secret@dc1.example.com"]}, "a host and perhaps a port"),
        ({"urls": ["ldaps://dc1.example.com ldap://evil.example"]}, "a host and perhaps a port"),
        ({"urls": ["ldaps://dc1.example.com:99999"]}, "a port from 1 to 65535"),
        ({"issuer": "https://id.example.com"}, "issuer is not a setting of the kind ldap"),
        ({"domains": ["example.com"]}, "domains is not a setting of the kind ldap"),
        ({"user_filter": "uid={username}"}, "user_filter must be a filter in brackets"),
        ({"user_filter": "(uid=ada)"}, "with {username} as a whole value"),
        ({"user_filter": "(uid={username})(cn=*)"}, "user_filter must be a filter"),
        ({"user_filter": "(&(uid={username})"}, "user_filter must be a filter"),
        ({"user_filter": "(uid={username}))("}, "user_filter must be a filter"),
        ({"user_filter": "(mail={username}@example.com)"}, "as a whole value"),
        ({"user_filter": "(|(uid={username})(cn={username}*))"}, "as a whole value"),
        ({"user_filter": "(uid:caseExactMatch:={username})"}, "as a whole value"),
        ({"user_filter": "(&(uid={username})(ou={dn}))"}, "user_filter must be a filter"),
        ({"group_base": "ou=groups", "group_filter": "(cn=all)"}, "with {dn} or {username}"),
        ({"group_base": "ou=groups", "group_filter": "member={dn}"}, "group_filter must be a filter"),
        ({"group_filter": "(member={dn})"}, "group_filter needs group_base"),
        ({"group_name_attribute": "cn"}, "group_name_attribute needs group_base"),
        ({"nested_groups": True}, "nested_groups needs group_base"),
        (
            {"group_base": "ou=groups", "nested_groups": True, "group_filter": "(memberUid={username})"},
            "must ask for {dn}",
        ),
        ({"subject_attribute": "a)(b"}, "should match pattern"),
        ({"pool_size": 0}, "greater than or equal to 1"),
        ({"operation_timeout_seconds": 11}, "less than or equal to 10"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_is_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**changes)
    (problem,) = refused.value.errors()[:1]
    assert sentence in problem["msg"]


@pytest.mark.parametrize("name", ["urls", "bind_password", "start_tls", "directory", "group_base"])
def test_other_kinds_have_none_of_it(name: str) -> None:
    value = {"urls": [], "bind_password": "x", "start_tls": True, "directory": "ldap", "group_base": "x"}[name]
    with pytest.raises(ValidationError, match=f"{name} is not a setting of the kind local"):
        IdentitySettings.model_validate({"kind": "local", name: value})


def test_plain_ldap_is_for_this_machine_and_for_starttls() -> None:
    settings(urls=["ldap://127.0.0.1:1389", "ldap://[::1]"])
    settings(urls=["ldap://dc1.example.com"], start_tls=True)


def test_a_bind_password_is_not_shown() -> None:
    assert "not to be shown" not in repr(settings())


def test_each_directory_knows_its_filters_and_attributes() -> None:
    open_, active = settings(group_base="ou=groups"), settings(directory="active_directory", group_base="dc=example")
    assert (open_.username, open_.subject, open_.group_name) == ("uid", "entryUUID", "cn")
    assert (active.username, active.subject, active.group_name) == ("sAMAccountName", "objectGUID", "sAMAccountName")
    assert "(uid={username})" in open_.users_filter
    assert "(sAMAccountName={username})" in active.users_filter
    assert open_.groups_filter == "(|(member={dn})(uniqueMember={dn}))"
    assert active.groups_filter == "(&(objectClass=group)(member={dn}))"
    assert settings().group_name == "dn"
    assert settings(username_attribute="displayName", subject_attribute="employeeNumber").username == "displayName"


def test_nested_groups_are_one_question_to_active_directory_and_several_to_others() -> None:
    active = settings(directory="active_directory", group_base="dc=example", nested_groups=True)
    assert active.groups_filter == "(&(objectClass=group)(member:1.2.840.113556.1.4.1941:={dn}))"
    assert not active.walks_groups
    assert settings(group_base="ou=groups", nested_groups=True).walks_groups
    own = settings(directory="active_directory", group_base="dc=x", nested_groups=True, group_filter="(member={dn})")
    assert own.walks_groups


def test_without_python_ldap_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("keystile_auth.identity.ldap.") and not name.endswith(".settings"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ldap", None)
    monkeypatch.setitem(sys.modules, "ldap.filter", None)
    with pytest.raises(SettingsError, match=r"identity.corp: .* python-ldap: pip install 'keystile-auth\[ldap\]'"):
        ldap.directory("corp", settings())


def test_nothing_of_python_ldap_is_loaded_where_no_directory_is_set() -> None:
    source = Path(str(ldap.__file__)).parent
    assert {path.name for path in source.glob("*.py") if "import ldap" in path.read_text()} == {"connection.py"}
    assert "from ldap" not in (source / "__init__.py").read_text() + (source / "settings.py").read_text()
