"""How the resource server says who it is at the introspection endpoint."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from keystile_mcp.credentials import JWT_BEARER, REREAD_SECONDS, SharedSecret, TokenFile, credentials
from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.settings import IntrospectionSettings


def test_a_secret_is_sent_as_http_basic_each_part_form_encoded() -> None:
    basic = SharedSecret("a b", "c:d/e")
    assert basic.headers() == {"Authorization": "Basic YStiOmMlM0FkJTJGZQ=="}
    assert basic.form() == {}


def test_a_token_file_is_sent_as_a_client_assertion_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a.b.c\n")
    proof = TokenFile("tools", path)
    assert proof.headers() == {}
    assert proof.form() == {
        "client_id": "tools",
        "client_assertion_type": JWT_BEARER,
        "client_assertion": "a.b.c",
    }


def test_a_renewed_token_file_is_read_again_after_a_while(tmp_path: Path) -> None:
    path, now = tmp_path / "token", [0.0]
    path.write_text("old")
    proof = TokenFile("tools", path, lambda: now[0])
    assert proof.form()["client_assertion"] == "old"
    path.write_text("new")
    now[0] = REREAD_SECONDS - 0.1
    assert proof.form()["client_assertion"] == "old"
    now[0] = REREAD_SECONDS
    assert proof.form()["client_assertion"] == "new"


def test_a_token_file_that_cannot_be_read_is_no_answer_rather_than_no_proof(tmp_path: Path) -> None:
    with pytest.raises(IntrospectionError, match="token_file"):
        TokenFile("tools", tmp_path / "missing").form()


def test_the_settings_have_a_secret_or_a_token_file(tmp_path: Path) -> None:
    secret = IntrospectionSettings.model_validate({"client_id": "tools", "client_secret": "s"})
    assert isinstance(credentials(secret), SharedSecret)
    file = IntrospectionSettings.model_validate({"client_id": "tools", "token_file": str(tmp_path / "token")})
    assert isinstance(credentials(file), TokenFile)
    for values in ({}, {"client_secret": "s", "token_file": "t"}):
        with pytest.raises(ValidationError, match="either client_secret"):
            IntrospectionSettings.model_validate({"client_id": "tools", **values})
