"""What people may type, and what stands in a directory, as an attacker would have it."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.identity import ldap
from keystile_auth.identity.answer import IdentityUnavailableError, SignInRefusedError
from keystile_auth.identity.settings import IdentitySettings
from tests.openldap import GROUPS, PASSWORD, PEOPLE, SUFFIX, OpenLdap, running_openldap

pytestmark = pytest.mark.ldap

CORPUS = [
    "*",
    "a*",
    "*)(uid=*",
    "*)(objectClass=*",
    "*))(|(uid=*",
    "victim)(objectClass=*",
    "victim)(&",
    "victim)(|(cn=*)",
    "x)(|(uid=victim)",
    "victim)(!(uid=x)",
    "(uid=victim)",
    "victim\\",
    "\\2a",
    "\\76ictim",
    "victim\\00",
    "victim\x00",
    "victim\x00)(cn=*",
    "vict\\im",
    ")",
    "(",
    "))))",
    "&(uid=victim)",
    "uid=victim",
    f"uid=victim,{PEOPLE}",
    f"cn=admin,{SUFFIX}",
    "victim,ou=people",
    "vic*im",
    "victim%2a",
    "%00",
    "{username}",
    "{dn}",
    "victim\n",
    "\N{FULLWIDTH ASTERISK}",
    "\ud800",
    "a" * 128,
]
TEMPLATES = ["(uid={username})", "(&(objectClass=inetOrgPerson)(|(uid={username})(mail={username})))"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenLdap]:
    """One container for the tests of this file, with somebody worth being in it."""
    with running_openldap(tmp_path_factory.mktemp("directory")) as server:
        server.person(uid="victim", mail="victim@example.com")
        yield server


def ask(directory: OpenLdap, name: str, **changes: Any) -> Any:
    made = ldap.directory("corp", IdentitySettings.model_validate(directory.settings(**changes)))
    try:
        return asyncio.run(made.authenticate(name, PASSWORD))
    finally:
        made.close()


@pytest.mark.docker
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_name_of_the_corpus_is_anybody(directory: OpenLdap, template: str) -> None:
    assert ask(directory, "victim", user_filter=template).username == "victim"
    for name in CORPUS:
        with pytest.raises((SignInRefusedError, IdentityUnavailableError)):
            ask(directory, name, user_filter=template)


@given(st.text(max_size=40))
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_name_adds_nothing_to_a_filter_but_its_own_value(template: str, name: str) -> None:
    from keystile_auth.identity.ldap import filters  # noqa: PLC0415 (needs python-ldap)

    bare = template.replace("{username}", "")
    made = filters.of_name(template, name)
    escaped = re.sub(r"\\[0-9a-fA-F]{2}", "", made)
    assert [each for each in escaped if each in "()*\\\x00"] == [each for each in bare if each in "()*\\\x00"]
    values = re.findall(r"=((?:[^()\\*\x00]|\\[0-9a-fA-F]{2})*)\)", made)
    assert name in {_unescaped(value) for value in values}


@given(st.text(max_size=40), st.text(max_size=40), st.binary(min_size=1, max_size=20))
def test_nor_do_a_dn_a_group_s_name_and_a_subject(dn: str, name: str, subject: bytes) -> None:
    from keystile_auth.identity.ldap import filters  # noqa: PLC0415

    def brackets(text: str) -> str:
        return "".join(each for each in re.sub(r"\\[0-9a-fA-F]{2}", "", text) if each in "()*\\\x00")

    assert brackets(filters.of_groups("(|(member={dn})(memberUid={username}))", [dn], name)) == "(()())"
    assert brackets(filters.of_groups("(member={dn})", [dn, dn], name)) == "(()())"
    assert brackets(filters.of_values("cn", [dn, name])) == "(()())"
    assert brackets(filters.of_subject("(uid={username})", "entryUUID", subject)) == "((*)())"


def _unescaped(value: str) -> str:
    return re.sub(r"\\([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), value)


@pytest.mark.docker
@pytest.mark.parametrize("uid", ["eve)(cn=*", "eve*", "eve(", "eve{dn}", "eve,ou=groups", "eve\\2a", 'eve#+<>;"'])
def test_whoever_has_a_name_like_a_filter_is_in_no_groups_of_others(directory: OpenLdap, uid: str) -> None:
    from ldap.dn import escape_dn_chars  # noqa: PLC0415

    directory.add(
        f"uid={escape_dn_chars(uid)},{PEOPLE}", "inetOrgPerson", uid=uid, cn="eve", sn="eve", userPassword=PASSWORD
    )
    own = f"of-{abs(hash(uid))}"
    directory.group(own, f"uid={escape_dn_chars(uid)},{PEOPLE}")
    directory.group(f"not-{own}", directory.dn("victim"))
    answer = ask(directory, uid, group_base=GROUPS, nested_groups=True)
    assert answer.username == uid
    assert answer.groups == (own,)


@pytest.mark.docker
def test_a_group_whose_name_is_like_a_filter_is_that_group_and_no_other(directory: OpenLdap) -> None:
    from ldap.dn import escape_dn_chars  # noqa: PLC0415

    for name in ("*", "x)(cn=*", "a\\2a", "{dn}", "<b>"):
        directory.add(f"cn={escape_dn_chars(name)},{GROUPS}", "groupOfNames", cn=name, member=directory.dn("victim"))
    found = set(ask(directory, "victim", group_base=GROUPS).groups)
    assert {"*", "x)(cn=*", "a\\2a", "{dn}", "<b>"} <= found
