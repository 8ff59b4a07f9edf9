"""The `keystile` command: each noun, and each refusal a sentence with exit code 2."""

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keystile_auth import __version__
from tests.auth_server import CALLBACK, MASTER_KEY, OTHER_RESOURCE, PASSWORD, RESOURCE, AuthServer
from tests.client_key import ClientKey, key_set
from tests.operator import Ended, Operator
from tests.stores import settings_of

PRIVATE = ClientKey.generate()


def name() -> str:
    return f"user-{secrets.token_hex(6)}"


def assert_refused(ended: Ended, sentence: str) -> None:
    assert ended.code == 2, ended.output
    assert sentence in ended.problem
    assert "Traceback" not in ended.problem


def test_the_version_is_printed_by_the_command_and_by_the_module(operator: Operator) -> None:
    assert operator.done("--version").output == f"keystile {__version__}\n"
    command = [sys.executable, "-m", "keystile_auth", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == f"keystile {__version__}\n"


def test_a_user_is_added_listed_disabled_enabled_and_deleted(operator: Operator) -> None:
    user = name()

    def line() -> str | None:
        lines = operator.done("users", "list").output.splitlines()
        return next((line for line in lines if line.startswith(f"{user}\t")), None)

    added = operator.add_user(user)
    sub = str(line()).split("\t")[1]
    assert added.output == f"Created {user} ({sub}).\n"
    assert str(line()).split("\t")[2] == "enabled"
    assert operator.done("users", "disable", user).output == f"{user} is disabled; 0 grants ended.\n"
    assert str(line()).split("\t")[2] == "disabled"
    assert operator.done("users", "enable", user).output == f"{user} can sign in again.\n"
    assert str(line()).split("\t")[2] == "enabled"
    assert operator.done("users", "delete", user).output == f"{user} is deleted; 0 grants ended.\n"
    assert line() is None


def test_each_change_of_a_user_leaves_its_event_without_the_password(operator: Operator) -> None:
    user = name()
    ended = [
        operator.add_user(user),
        operator.done("users", "password", user, typed="another good password\n"),
        operator.done("users", "disable", user),
        operator.done("users", "enable", user),
        operator.done("users", "delete", user),
    ]
    events = [event for each in ended for event in each.events]
    assert [(event["type"], event["reason"]) for event in events] == [
        ("user.created", "operator"),
        ("user.updated", "password"),
        ("user.updated", "disabled"),
        ("user.updated", "enabled"),
        ("user.deleted", "operator"),
    ]
    assert {event["target"]["username"] for event in events} == {user}
    assert PASSWORD not in str(events)
    assert "another good password" not in str(events)


def test_disabling_a_user_ends_grants_and_says_how_many(auth_server: AuthServer, operator: Operator) -> None:
    person = auth_server.person()
    tokens = [auth_server.tokens(auth_server.register().id, person) for _ in range(2)]
    ended = operator.done("users", "disable", person.username)
    assert "2 grants ended" in ended.output
    assert not any(auth_server.is_active(each["access_token"]) for each in tokens)


def test_deleting_a_user_ends_grants_and_frees_the_name_for_another_subject(
    auth_server: AuthServer, operator: Operator
) -> None:
    person = auth_server.person()
    tokens = auth_server.tokens(auth_server.register().id, person)
    sub = auth_server.introspect(tokens["access_token"])["sub"]
    assert "1 grants ended" in operator.done("users", "delete", person.username).output
    assert not auth_server.is_active(tokens["access_token"])
    assert sub not in operator.add_user(person.username).output


@pytest.mark.parametrize(
    ("username", "password", "sentence"),
    [
        ("", PASSWORD, "1 to 128 visible characters"),
        (" padded", PASSWORD, "no space at its ends"),
        ("a\nb", PASSWORD, "visible characters"),
        ("x" * 129, PASSWORD, "1 to 128 visible characters"),
        ("somebody-new", "too short", "12 to 1024 characters"),
        ("somebody-new", "", "12 to 1024 characters"),
        ("somebody-new", "x" * 1025, "12 to 1024 characters"),
    ],
)
def test_a_user_that_cannot_be_is_refused(operator: Operator, username: str, password: str, sentence: str) -> None:
    assert_refused(operator.run("users", "add", username, typed=f"{password}\n"), sentence)


def test_a_name_that_is_taken_is_refused_in_any_case(operator: Operator) -> None:
    user = name()
    operator.add_user(user)
    assert_refused(operator.run("users", "add", user.upper(), typed=f"{PASSWORD}\n"), "there is a user")


@pytest.mark.parametrize("command", ["password", "disable", "enable", "delete"])
def test_a_user_there_is_not_is_refused(operator: Operator, command: str) -> None:
    ended = operator.run("users", command, "nobody-at-all", typed=f"{PASSWORD}\n")
    assert_refused(ended, "There is no user nobody-at-all; `keystile users list` shows all.")


def test_a_client_is_added_listed_shown_without_its_secret_and_deleted(operator: Operator) -> None:
    added = operator.done("clients", "add", "Web app", "--redirect-uri", CALLBACK)
    client, secret = added.value("client_id"), added.value("client_secret")
    listed = operator.done("clients", "list").output
    assert f"{client}\tWeb app\tauthorization_code,refresh_token\tclient_secret_basic\n" in listed
    shown = operator.done("clients", "show", client).output
    assert json.loads(shown)["redirect_uris"] == [CALLBACK]
    assert "hash" not in shown
    deleted = operator.done("clients", "delete", client)
    assert deleted.output == f"{client} is deleted; 0 grants and tokens ended.\n"
    assert client not in operator.done("clients", "list").output
    events = [*added.events, *deleted.events]
    assert [event["type"] for event in events] == ["client.registered", "client.deleted"]
    assert secret not in str(events)


def test_a_public_client_has_no_secret(operator: Operator) -> None:
    added = operator.done("clients", "add", "Native", "--redirect-uri", CALLBACK, "--auth-method", "none")
    assert "client_secret" not in added.output


def test_a_client_that_registered_itself_is_not_listed_but_shown_and_deleted(
    auth_server: AuthServer, operator: Operator
) -> None:
    client = auth_server.register()
    assert client.id not in operator.done("clients", "list").output
    assert client.id in operator.done("clients", "show", client.id).output
    operator.done("clients", "delete", client.id)
    assert auth_server.refresh(client.id, "x").status_code == 401


MACHINE = ["--resource", RESOURCE, "--scope", "mcp:basic"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Give --redirect-uri for a client that signs users in"),
        (["--redirect-uri", "http://evil.example/"], "redirect_uris, number 1, must be https"),
        (["--redirect-uri", CALLBACK, "--auth-method", "tls_client_auth"], "--auth-method must be one of none,"),
        (["--redirect-uri", CALLBACK, "--auth-method", "private_key_jwt"], "--jwks-file go together"),
        (["--redirect-uri", CALLBACK, "--scope", "mcp:basic"], "--scope needs --resource."),
        ([*MACHINE, "--auth-method", "none"], "must authenticate; --auth-method none cannot"),
        (["--resource", "https://unknown.example", "--scope", "x"], "is not a resource of this server; known:"),
        (["--resource", RESOURCE], "--scope must name scopes of the resources: mcp:basic, mcp:jobs."),
        (["--resource", RESOURCE, "--scope", "other:use"], "--scope must name scopes of the resources"),
    ],
)
def test_a_client_that_cannot_be_is_refused(operator: Operator, options: list[str], sentence: str) -> None:
    assert_refused(operator.run("clients", "add", "Client", *options), sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("junk", "is not JSON"),
        ("{}", "jwks must be a JSON Web Key Set"),
        ('{"keys": 7}', "jwks must be a JSON Web Key Set"),
        (None, "cannot be read: No such file or directory"),
        (json.dumps({"keys": [PRIVATE.key.as_dict(private=True)]}), "jwks must have public keys only"),
        ('{"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB", "dp": "AQ"}]}', "jwks must have public keys only"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused(
    operator: Operator, tmp_path: Path, content: str | None, sentence: str
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    options = [*MACHINE, "--auth-method", "private_key_jwt", "--jwks-file", str(path)]
    assert_refused(operator.run("clients", "add", "Signer", *options), sentence)


def test_public_keys_without_their_method_are_refused(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(key_set(PRIVATE)))
    ended = operator.run("clients", "add", "Signer", *MACHINE, "--jwks-file", str(tmp_path / "keys.json"))
    assert_refused(ended, "--jwks-file go together")


def test_a_client_of_two_resources_has_scopes_of_both(operator: Operator) -> None:
    options = [*MACHINE, "--resource", OTHER_RESOURCE, "--scope", "other:use"]
    client = operator.done("clients", "add", "Both", *options).value("client_id")
    shown = json.loads(operator.done("clients", "show", client).output)
    assert (shown["resources"], shown["scopes"]) == ([RESOURCE, OTHER_RESOURCE], ["mcp:basic", "other:use"])


@pytest.mark.parametrize("command", ["show", "delete"])
def test_a_client_there_is_not_is_refused(operator: Operator, command: str) -> None:
    assert_refused(operator.run("clients", command, "kst_client_none"), "There is no client kst_client_none")


def test_the_audit_file_is_written_by_commands_and_verified(operator: Operator, tmp_path: Path) -> None:
    file, user = tmp_path / "audit.jsonl", name()
    for command in (("users", "add", user), ("users", "disable", user), ("users", "delete", user)):
        operator.done(*command, typed=f"{PASSWORD}\n", KEYSTILE_AUDIT__FILE=str(file))
    assert operator.done("audit", "verify", str(file)).output == "3 events, 0 breaks in the chain.\n"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[2]]) + "\n")
    missing = operator.run("audit", "verify", str(file))
    assert missing.code == 1
    assert f"{file}:2: " in missing.output
    assert "2 events, 1 breaks in the chain." in missing.output


def test_an_audit_file_that_is_missing_or_has_no_event_is_refused(operator: Operator, tmp_path: Path) -> None:
    assert_refused(operator.run("audit", "verify", str(tmp_path / "none")), "Cannot read")
    (tmp_path / "empty").write_text("no event\n")
    assert_refused(operator.run("audit", "verify", str(tmp_path / "empty")), "There is no audit event in")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"KEYSTILE_STORE": '{"url": "unix:///nowhere/valkey.sock"}'}, "The store does not answer."),
        ({"KEYSTILE_ISSUER": "http://auth.example.com"}, "issuer (the variable KEYSTILE_ISSUER): must be https"),
        ({"KEYSTILE_ISSUER": "https://auth.example.com/"}, "must not end with a slash"),
        ({"KEYSTILE_MASTER_KEY": "short"}, "must be 32 random bytes in base64"),
        ({"KEYSTILE_ISSUR": "https://auth.example.com"}, "no such setting; did you mean issuer?"),
        ({"KEYSTILE_AUDIT__FILE": "/nowhere/audit.jsonl"}, "audit.file: cannot write"),
    ],
)
def test_what_the_operator_can_mend_is_said_in_a_sentence(
    operator: Operator, environment: dict[str, str], sentence: str
) -> None:
    assert_refused(operator.run("users", "list", **environment), sentence)


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["users"], ["users", "add"], ["clients", "add"], ["audit", "verify"]]
)
def test_a_command_that_is_not_one_says_how_it_is_used(operator: Operator, arguments: list[str]) -> None:
    ended = operator.run(*arguments)
    assert ended.code == 2
    assert "Usage:" in ended.problem + ended.output


def test_serving_under_another_master_key_than_the_stores_is_refused(
    auth_server: AuthServer, store_url: str, free_port: int
) -> None:
    assert auth_server.http.get(f"{auth_server.issuer}/jwks").status_code == 200
    resource: dict[str, Any] = {"uri": RESOURCE, "title": "x", "scopes": {"a": "A"}, "secret": "s" * 32}
    environment = {
        "KEYSTILE_ISSUER": f"http://127.0.0.1:{free_port}",
        "KEYSTILE_LISTEN__PORT": str(free_port),
        "KEYSTILE_METRICS__PORT": "0",
        "KEYSTILE_MASTER_KEY": MASTER_KEY[::-1].replace("=", "") + "=",
        "KEYSTILE_STORE": json.dumps(settings_of(store_url)),
        "KEYSTILE_RESOURCES": json.dumps({"mcp": resource}),
        "PATH": "",
    }
    command = [sys.executable, "-m", "keystile_auth", "serve"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert "master_key is not the one that the keys in the store were encrypted with." in ended.stderr
    assert "Traceback" not in ended.stderr
