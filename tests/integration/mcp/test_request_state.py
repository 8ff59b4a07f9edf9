"""`requestState` of 2026-07-28: what a client carries between the rounds of a call is refused unless it is its own."""

import asyncio
import base64
from typing import Any

import httpx2
import pytest

from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    resource_server,
    tool_call,
)

HERE = "tests.integration.mcp.served"
ANSWERS = {
    "order_meal": {"action": "accept", "content": {"dish": "soup"}},
    "open_account": {"action": "accept"},
}
TAMPERED = "Invalid or expired requestState"


async def call(server: ResourceServer, token: str, tool: str = "order_meal", **parameters: Any) -> dict[str, Any]:
    """One round of a call; what it answered."""
    message = tool_call(tool, {})
    message["params"] |= {"arguments": {}, **parameters}
    capabilities: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities
    answer: httpx2.Response = await server.http.post(server.url, headers=modern_headers(tool, token), json=message)
    return dict(answer.json())


async def ask(server: ResourceServer, token: str, tool: str = "order_meal") -> tuple[str, dict[str, Any]]:
    """The first round: the state, and answers to what was asked."""
    result = (await call(server, token, tool))["result"]
    assert result["resultType"] == "input_required"
    return result["requestState"], dict.fromkeys(result["inputRequests"], ANSWERS[tool])


async def second_round(server: ResourceServer, token: str, state: str, answers: dict[str, Any]) -> dict[str, Any]:
    """The second round."""
    return await call(server, token, requestState=state, inputResponses=answers)


def is_refused(answered: dict[str, Any]) -> bool:
    return "error" in answered and answered["error"]["code"] == -32602


async def test_the_state_and_the_answers_end_the_call(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    state, answers = await ask(server, token)
    assert (await second_round(server, token, state, answers))["result"]["content"][0]["text"] == "soup for 1"


@pytest.mark.parametrize("claims", [{"sub": "mallory"}, {"client_id": "another"}])
async def test_the_state_of_another_user_or_client_is_refused(server: ResourceServer, claims: dict[str, str]) -> None:
    issue = server.authorization_server.issue
    state, answers = await ask(server, issue(sub="alice"))
    assert is_refused(await second_round(server, issue(**{"sub": "alice", **claims}), state, answers))
    assert "result" in await second_round(server, issue(sub="alice"), state, answers)


async def test_an_expired_state_is_refused(scripted: ScriptedAuthorizationServer) -> None:
    # Its states are good for five seconds, those of the reference server for ten minutes.
    async with resource_server(scripted, app=f"{HERE}:hasty") as server:
        token = scripted.issue()
        state, answers = await ask(server, token)
        assert "result" in await second_round(server, token, state, answers)
        await asyncio.sleep(6.1)
        assert is_refused(await second_round(server, token, state, answers))


@pytest.mark.parametrize("position", [0, 3, 8, 20, 60, -1])
async def test_a_state_that_was_changed_is_refused(server: ResourceServer, position: int) -> None:
    token = server.authorization_server.issue()
    state, answers = await ask(server, token)
    changed = list(state)
    changed[position] = "A" if changed[position] != "A" else "B"
    for tampered in ("".join(changed), state + "A", state[:-4], "", "x", "v1.", "v1." + "A" * 10_000):
        assert is_refused(await second_round(server, token, tampered, answers)), tampered


async def test_the_state_of_another_tool_is_refused(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    state, _ = await ask(server, token, "open_account")
    _, answers = await ask(server, token)
    assert is_refused(await second_round(server, token, state, answers))


async def test_an_answer_without_its_state_is_asked_for_again(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    for tool in ANSWERS:
        _, answers = await ask(server, token, tool)
        again = await call(server, token, tool, inputResponses=answers)
        assert again["result"]["resultType"] == "input_required"


async def test_the_state_cannot_be_read(server: ResourceServer) -> None:
    state, _ = await ask(server, server.authorization_server.issue(sub="alice"))
    sealed = base64.urlsafe_b64decode(state.removeprefix("v1.") + "==")
    assert not any(word in sealed for word in (b"alice", b"meal", b"client-1"))


async def test_replicas_take_each_others_states_if_they_share_the_key(scripted: ScriptedAuthorizationServer) -> None:
    key, other_key = (base64.b64encode(byte * 32).decode() for byte in (b"a", b"b"))
    async with (
        resource_server(scripted, request_state_key=key) as first,
        resource_server(scripted, request_state_key=key, resource=first.url) as second,
        resource_server(scripted, request_state_key=other_key, resource=first.url) as stranger,
        resource_server(scripted, request_state_key=key) as other_resource,
    ):
        scripted.resource = first.url
        token = scripted.issue()
        state, answers = await ask(first, token)
        for replica in (second, stranger):
            replica.http.headers["Host"] = first.origin.removeprefix("http://")
        assert is_refused(await second_round(stranger, token, state, answers))
        assert "result" in await second_round(second, token, state, answers)
        scripted.resource = other_resource.url
        assert is_refused(await second_round(other_resource, scripted.issue(), state, answers))
