"""Refusals as RFC 6750 and RFC 9728 spell them."""

import json
from typing import Any

import pytest

from keystile_mcp import challenge
from keystile_mcp.challenge import BearerError, Challenge

METADATA = "https://tools.example.com/.well-known/oauth-protected-resource/mcp"


async def answer(error: BearerError, required: list[str]) -> tuple[int, dict[str, str], dict[str, Any]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Challenge(METADATA, required).refuse(error, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


async def test_no_credentials_get_no_error_code() -> None:
    status, headers, body = await answer(challenge.missing_token(), ["mcp:basic"])
    assert status == 401
    assert headers["www-authenticate"] == f'Bearer resource_metadata="{METADATA}", scope="mcp:basic"'
    assert "error" not in body


async def test_an_invalid_token_is_401_with_code_and_reason() -> None:
    status, headers, body = await answer(challenge.invalid_token("expired", "It has expired"), ["a", "b"])
    assert status == 401
    assert headers["www-authenticate"] == (
        f'Bearer error="invalid_token", error_description="It has expired", resource_metadata="{METADATA}", scope="a b"'
    )
    assert body == {"error": "invalid_token", "error_description": "It has expired"}


async def test_a_malformed_request_is_400() -> None:
    status, headers, _ = await answer(challenge.malformed_request("One header"), [])
    assert status == 400
    assert headers["www-authenticate"].startswith('Bearer error="invalid_request"')
    assert "scope=" not in headers["www-authenticate"]


async def test_missing_scopes_are_403_with_all_that_are_needed() -> None:
    status, headers, body = await answer(challenge.insufficient_scope(["a", "b"], ["b"]), ["a"])
    assert status == 403
    assert 'error="insufficient_scope"' in headers["www-authenticate"]
    assert headers["www-authenticate"].endswith('scope="a b"')
    assert body["error_description"] == "This needs a b; the token lacks b"


async def test_not_knowing_is_503_with_a_time_to_come_back_and_no_challenge() -> None:
    status, headers, _ = await answer(challenge.unavailable(), ["a"])
    assert status == 503
    assert headers["retry-after"] == "2"
    assert "www-authenticate" not in headers


@pytest.mark.parametrize("error", [challenge.missing_token(), challenge.unavailable()])
async def test_no_refusal_may_be_stored(error: BearerError) -> None:
    _, headers, _ = await answer(error, [])
    assert headers["cache-control"] == "no-store"
