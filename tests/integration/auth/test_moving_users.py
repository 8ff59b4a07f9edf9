"""`keystile users import` and `export`: users come with their passwords, and go again."""

import json
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from keystile_auth.store.users import User
from tests.auth_server import MASTER_KEY, AuthServer
from tests.operator import RESOURCES, Ended, Operator
from tests.password_hashes import FORMS, PASSWORD, keycloak_credential
from tests.person import Person
from tests.stores import Server, Site, settings_of
from tests.tcp_proxy import tcp_proxy


def name() -> str:
    return f"user-{secrets.token_hex(6)}"


def imported(operator: Operator, folder: Path, content: str | bytes, *options: str) -> Ended:
    path = folder / "users"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return operator.run("users", "import", str(path), *options)


def found(server: AuthServer, username: str) -> User | None:
    async def work(users: Any) -> User | None:
        user: User | None = await users.find_by_name(username)
        return user

    user: User | None = server.in_store(work)
    return user


def signs_in(server: AuthServer, username: str, password: str = PASSWORD) -> bool:
    person = Person(server.issuer, username, password)
    answer = person.sign_in(person.get(f"{server.issuer}/login"))
    person.browser.close()
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


@pytest.mark.parametrize("form", FORMS)
def test_who_comes_with_a_hash_signs_in_and_has_argon2id_from_then_on(
    auth_server: AuthServer, operator: Operator, tmp_path: Path, form: str
) -> None:
    user = name()
    row = json.dumps({"username": user, "password_hash": FORMS[form]})
    assert imported(operator, tmp_path, row).code == 0
    assert not signs_in(auth_server, user, "another password")
    brought = found(auth_server, user)
    assert signs_in(auth_server, user)
    raised = found(auth_server, user)
    assert brought
    assert raised
    assert raised.password_hash != brought.password_hash
    assert raised.password_hash.startswith("$argon2id$v=19$m=65536")
    assert signs_in(auth_server, user)


def keycloak(*users: dict[str, Any], indent: int | None = 2) -> str:
    realm = {"realm": "x", "roles": {"realm": [{"name": "users"}]}, "users": list(users), "clients": [{"id": "{["}]}
    return json.dumps(realm, indent=indent)


def files(user: str) -> dict[str, str]:
    bcrypt, ssha = FORMS["bcrypt"], FORMS["ldap ssha512"]
    entry = (
        f"dn: ou=people,dc=x\nobjectClass: organizationalUnit\n\n# a\n comment\ndn: uid={user},dc=x\nuid: {user[:4]}\n"
    )
    auth0 = {"_id": {"$oid": "6"}, "email": user, "passwordHash": bcrypt, "connection": "x"}
    of_keycloak = {"username": user, "enabled": True}
    return {
        "csv": f"username,password_hash,disabled\r\n{user},{bcrypt},false\r\n",
        "json": json.dumps({"username": user, "password_hash": bcrypt}),
        "ldif": f"version: 1\n\n{entry} {user[4:]}\nuserPassword: {ssha[:30]}\n {ssha[30:]}\n",
        "auth0": json.dumps(auth0),
        "keycloak": keycloak({**of_keycloak, "credentials": [keycloak_credential("pbkdf2-sha256")]}),
        "keycloak in one line": keycloak({**of_keycloak, "credentials": [keycloak_credential("argon2")]}, indent=None),
        "keycloak sha1": keycloak({**of_keycloak, "credentials": [keycloak_credential("pbkdf2")]}),
        "keycloak sha512": keycloak({**of_keycloak, "credentials": [keycloak_credential("pbkdf2-sha512")]}),
    }


@pytest.mark.parametrize("format_", files(""))
def test_each_format_is_known_by_its_content_and_its_users_sign_in(
    auth_server: AuthServer, operator: Operator, tmp_path: Path, format_: str
) -> None:
    user = name()
    ended = imported(operator, tmp_path, files(user)[format_])
    assert ended.code == 0, ended.problem
    assert f"1 users read ({format_.split(maxsplit=1)[0]}): 1 created" in ended.output
    assert signs_in(auth_server, user)


def test_an_okta_file_has_states_and_no_passwords(auth_server: AuthServer, operator: Operator, tmp_path: Path) -> None:
    active, gone, strange = name(), name(), name()
    lines = ["login,firstName,status", f"{active},A,ACTIVE", f"{gone},B,DEPROVISIONED", f"{strange},C,ON FIRE"]
    ended = imported(operator, tmp_path, "\n".join(lines))
    assert ended.code == 1
    assert "(okta): 2 created" in ended.output
    assert "2 have no password" in ended.output
    assert ended.problem == "line 4: its status is none that is known"
    states = [user and (user.disabled, user.password_hash) for user in map(found, [auth_server] * 2, [active, gone])]
    assert states == [(False, ""), (True, "")]
    assert not signs_in(auth_server, active, "")
    assert not signs_in(auth_server, active, "any password at all")


@pytest.mark.parametrize(
    "content",
    [
        "username,enabled\n{}-1,no\n",
        "username,disabled\n{}-1,TRUE\n",
        '{{"email": "{}-1", "blocked": true}}',
        '{{"users": [{{"username": "{}-1", "enabled": false}}]}}',
        "dn: uid=x\nuid: {}-1\nnsAccountLock: TRUE\n",
        "dn: uid=x\nuid: {}-1\npwdAccountLockedTime: 000001010000Z\n",
        "dn: cn=x\nobjectClass: user\nsAMAccountName: {}-1\nuserAccountControl: 514\n",
    ],
)
def test_who_was_disabled_stays_so(auth_server: AuthServer, operator: Operator, tmp_path: Path, content: str) -> None:
    user = name()
    assert imported(operator, tmp_path, content.format(user)).code == 0
    brought = found(auth_server, f"{user}-1")
    assert brought
    assert brought.disabled


def test_a_dry_run_says_the_same_and_writes_nothing(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    user = name()
    content = json.dumps({"username": user, "password_hash": FORMS["bcrypt"]}) + "\n{}\n"
    ended = imported(operator, tmp_path, content, "--dry-run")
    assert ended.code == 1
    assert "2 users read (json): 1 would be created" in ended.output
    assert "line 2: there is no user name" in ended.problem
    assert ended.events == []
    assert found(auth_server, user) is None


def test_an_import_begun_again_goes_on_and_makes_nothing_twice(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    lines = [json.dumps({"username": name(), "password_hash": FORMS["bcrypt"]}) for _ in range(40)]
    imported(operator, tmp_path, "\n".join(lines[:25]))
    ended = imported(operator, tmp_path, "\n".join(lines))
    assert ended.code == 0
    assert "40 users read (json): 15 created, 0 updated, 25 there already" in ended.output


def test_more_users_than_are_taken_at_once_come_each_with_what_the_file_says(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    users = [name() for _ in range(1100)]
    rows = [{"username": user, "disabled": number % 2 == 0} for number, user in enumerate(users)]
    lines = [json.dumps(row) for row in rows]
    lines[600] = json.dumps({"username": ""})
    lines[601] = json.dumps({"username": users[0].upper(), "disabled": False})
    ended = imported(operator, tmp_path, "\n".join(lines))
    assert "1100 users read (json): 1098 created, 0 updated, 0 there already, 2 not taken over." in ended.output
    assert sorted(line.split(":")[0] for line in ended.problem.splitlines() if ": " in line) == ["line 601", "line 602"]
    # All of them at once, each changed and its sessions ended.
    changed = [json.dumps({**row, "disabled": not row["disabled"]}) for row in rows[:500]]
    ended = imported(operator, tmp_path, "\n".join(changed), "--update")
    assert "500 updated" in ended.output
    for number in (0, 1, 499, 500, 602, 1099):
        user = found(auth_server, users[number])
        assert user
        assert user.disabled == ((number % 2 == 0) != (number < 500))
    exported = [json.loads(line)["username"] for line in operator.run("users", "export").output.splitlines()]
    assert {user for number, user in enumerate(users) if number not in {600, 601}} <= set(exported)


def test_a_store_that_does_not_answer_is_said_before_anything_is_read(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"username\n{name()}\n")
    away = {"KEYSTILE_STORE": '{"url": "unix:///nowhere/valkey.sock"}'}
    ended = operator.run("users", "import", str(tmp_path / "users"), "--format", "csv", **away)
    assert ended.code == 2
    assert ended.problem == "The store does not answer. Is it running, and is store.url right?"


def test_a_store_that_goes_away_says_how_to_go_on_and_the_same_import_goes_on(tmp_path: Path) -> None:
    server, users = Server(Site(tmp_path), "one"), [name() for _ in range(20_000)]
    server.start()
    try:
        with tcp_proxy(server.port) as proxy:
            operator = Operator(f"redis://127.0.0.1:{proxy.port}/0")
            content = "\n".join(json.dumps({"username": user}) for user in users)

            def cut_after_some() -> None:
                while len(proxy.seen) < 100_000:
                    time.sleep(0.005)
                proxy.is_mute = True

            cutting = Thread(target=cut_after_some)
            cutting.start()
            ended = imported(operator, tmp_path, content)
            cutting.join()
            assert ended.code == 2
            assert "Broken off." in ended.problem
            assert "Begin the same import again: it goes on." in ended.problem
            assert "The store does not answer." in ended.problem
            proxy.is_mute = False
            again = imported(operator, tmp_path, content)
            assert again.code == 0
            assert "20000 users read" in again.output
            exported = [json.loads(line)["username"] for line in operator.run("users", "export").output.splitlines()]
            assert sorted(exported) == sorted(users)
    finally:
        server.stop()


def test_users_that_are_there_are_left_alone_unless_they_are_to_be_updated(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    person = auth_server.person()
    tokens = auth_server.tokens(auth_server.register().id, person)
    row = json.dumps({"username": person.username.upper(), "password_hash": FORMS["bcrypt"], "disabled": True})
    before = found(auth_server, person.username)
    ended = imported(operator, tmp_path, row)
    assert "line 1: there is a user of this name already, who was left alone" in ended.problem
    assert found(auth_server, person.username) == before
    ended = imported(operator, tmp_path, row, "--update")
    assert (ended.code, [event["reason"] for event in ended.events]) == (0, ["disabled", "operator"])
    after = found(auth_server, person.username)
    assert after
    assert (after.password_hash, after.disabled) == (FORMS["bcrypt"], True)
    assert not auth_server.is_active(tokens["access_token"])
    enabled = json.dumps({"username": person.username, "disabled": False})
    assert "1 updated" in imported(operator, tmp_path, enabled, "--update").output
    assert signs_in(auth_server, person.username)


def test_a_name_that_is_in_the_file_twice_is_taken_once(operator: Operator, tmp_path: Path) -> None:
    user = name()
    rows = [{"username": user, "password_hash": FORMS["bcrypt"]}, {"username": user.upper(), "disabled": True}]
    ended = imported(operator, tmp_path, "\n".join(map(json.dumps, rows)))
    assert ended.code == 1
    assert "1 created" in ended.output
    assert ended.problem.startswith("line 2: there is a user of this name already")


def test_passwords_in_plain_text_are_taken_only_when_that_is_asked_for(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    user, short = name(), name()
    content = f"username,password\n{user},{PASSWORD}\n{short},short\n"
    refused = imported(operator, tmp_path, content)
    assert refused.code == 2
    assert "line 2: it has a password in plain text; --plain-passwords takes it" in refused.problem
    assert "line 3: a password has 12 to 1024 characters" in refused.problem
    taken = imported(operator, tmp_path, content, "--plain-passwords")
    assert taken.code == 1
    assert signs_in(auth_server, user)
    assert PASSWORD not in str(refused) + str(taken)


def test_each_user_and_the_whole_leave_their_events(operator: Operator, tmp_path: Path) -> None:
    users = [name(), name()]
    lines = [json.dumps({"username": user, "password_hash": FORMS["bcrypt"]}) for user in users]
    ended = imported(operator, tmp_path, "\n".join(lines))
    assert [(event["type"], event["reason"]) for event in ended.events[:2]] == [("user.created", "import")] * 2
    assert ended.events[2]["type"] == "users.imported"
    assert ended.events[2]["target"]["created"] == "2"
    assert FORMS["bcrypt"] not in str(ended)


def test_an_export_is_imported_again_with_subjects_and_passwords(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    user, path = auth_server.add_user(), tmp_path / "export"
    before = found(auth_server, user)
    ended = operator.done("users", "export", "--output", str(path), "--with-password-hashes")
    assert ended.events[0]["type"] == "users.exported"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    operator.done("users", "delete", user)
    mine = "".join(line + "\n" for line in path.read_text().splitlines() if json.loads(line)["username"] == user)
    assert imported(operator, tmp_path, mine).code == 0
    assert found(auth_server, user) == before
    again = operator.run("users", "export", "--output", str(path))
    assert again.code == 2
    assert "is there already" in again.problem


def test_an_export_has_no_hashes_unless_they_are_asked_for(auth_server: AuthServer, operator: Operator) -> None:
    user = auth_server.add_user()
    lines = [json.loads(line) for line in operator.done("users", "export").output.splitlines()]
    assert user in {line["username"] for line in lines}
    assert all("password_hash" not in line for line in lines)


def test_an_export_that_cannot_be_written_is_refused(operator: Operator) -> None:
    ended = operator.run("users", "export", "--output", "/nowhere/at/all")
    assert ended.code == 2
    assert "cannot be written" in ended.problem


def test_a_subject_that_somebody_else_has_is_refused(
    auth_server: AuthServer, operator: Operator, tmp_path: Path
) -> None:
    holder = found(auth_server, auth_server.add_user())
    assert holder
    user = name()
    ended = imported(operator, tmp_path, json.dumps({"username": user, "sub": holder.sub}))
    assert "its sub is that of another user" in ended.problem
    assert found(auth_server, user) is None
    assert found(auth_server, holder.username) == holder


def test_users_come_through_standard_input(auth_server: AuthServer, operator: Operator, store_url: str) -> None:
    user = name()
    environment = {
        "KEYSTILE_ISSUER": "http://127.0.0.1:3001",
        "KEYSTILE_MASTER_KEY": MASTER_KEY,
        "KEYSTILE_STORE": json.dumps(settings_of(store_url)),
        "KEYSTILE_RESOURCES": json.dumps(RESOURCES),
    }
    command = [sys.executable, "-m", "keystile_auth", "users", "import", "-"]
    typed = f"username,password_hash\n{user},{FORMS['bcrypt']}\n".encode()
    ended = subprocess.run(command, env=environment, input=typed, capture_output=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert b"1 created" in ended.stdout
    assert found(auth_server, user)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "There is no user in it"),
        ("first,last\na,b\n", "names no column of user names"),
        ("\ufeffusername\n".encode("utf-16"), "UTF-16"),
        ('{"users": [', "no end"),
        ('{"users": [{"username": "a', "no end"),
        (b"user\xff\n", "The first line of the CSV cannot be read"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_refused(
    operator: Operator, tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    ended = imported(operator, tmp_path, content)
    assert ended.code == 2
    assert sentence in ended.problem


def test_a_file_there_is_not_and_a_format_there_is_not_are_refused(operator: Operator) -> None:
    assert "cannot be read: No such file" in operator.run("users", "import", "/nowhere").problem
    assert "--format must be one of csv" in operator.run("users", "import", "-", "--format", "xml").problem
