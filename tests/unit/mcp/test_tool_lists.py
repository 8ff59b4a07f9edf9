"""A list of tools shows what the caller could be granted, and nobody else keeps it."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from keystile_mcp.policy import Policy
from keystile_mcp.tool_lists import ToolLists
from tests.unit.mcp.samples import active_token

POLICY = Policy(["base"], {"write": ["write"], "admin_*": ["admin"]})
TOOLS = [{"name": "read"}, {"name": "write"}, {"name": "admin_users"}]


async def listed(
    result: Any, *, grantable: tuple[str, ...] | None, scopes: tuple[str, ...] = ("base",)
) -> tuple[Any, list[str]]:
    known: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"user": active_token(scopes=scopes, grantable_scopes=grantable).user}
    await ToolLists(POLICY, known.extend).serve(app, scope, receive, send)
    return json.loads(sent[1]["body"])["result"], known


@pytest.mark.parametrize(
    ("scopes", "grantable", "shown"),
    [
        (("base",), ("base", "write"), ["read", "write"]),
        (("base",), ("base",), ["read"]),
        (("base", "admin"), (), ["read", "admin_users"]),
        (("base",), ("write", "admin"), ["read", "write", "admin_users"]),
        (("base",), None, ["read", "write", "admin_users"]),
    ],
)
async def test_a_tool_is_shown_when_a_token_could_be_had_that_may_call_it(
    scopes: tuple[str, ...], grantable: tuple[str, ...] | None, shown: list[str]
) -> None:
    result, _ = await listed({"tools": TOOLS, "nextCursor": "2"}, grantable=grantable, scopes=scopes)
    assert result == {"tools": [{"name": name} for name in shown], "nextCursor": "2"}


async def test_the_names_of_hidden_tools_are_known_too() -> None:
    _, known = await listed({"tools": TOOLS}, grantable=())
    assert known == ["read", "write", "admin_users"]


async def test_a_list_that_may_be_kept_for_all_is_made_private() -> None:
    result, _ = await listed({"tools": TOOLS, "cacheScope": "public", "ttlMs": 5}, grantable=None)
    assert result == {"tools": TOOLS, "cacheScope": "private", "ttlMs": 5}


async def test_a_tool_without_a_name_is_shown_to_those_who_see_everything_only() -> None:
    nameless: list[Any] = [{}, "x", {"name": 5}]
    assert (await listed({"tools": nameless}, grantable=None))[0] == {"tools": nameless}
    assert (await listed({"tools": nameless}, grantable=("base",)))[0] == {"tools": []}


@pytest.mark.parametrize("result", [None, [], "x", {}, {"tools": None}, {"tools": {"name": "read"}}])
async def test_an_answer_without_a_list_of_tools_goes_on_as_it_is(result: Any) -> None:
    assert await listed(result, grantable=()) == (result, [])
