"""What the reference server has, through the SDK's own client on each wire."""

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any

import mcp_types
import pytest
from mcp import Client
from mcp.client.client import ConnectMode
from mcp.shared.exceptions import MCPError

from tests.integration.mcp.resource_server import (
    MODERN,
    ResourceServer,
    ScriptedAuthorizationServer,
    resource_server,
)

WIRES: list[ConnectMode] = [MODERN, "legacy"]
TOOLS = {
    "hello_app",
    "echo",
    "add",
    "who_am_i",
    "count_text",
    "long_running",
    "tiny_image",
    "annotated_message",
    "link_note",
    "embed_note",
    "ask_model",
    "order_meal",
    "list_roots",
    "open_account",
    "write_log",
    "touch_note",
}

pytestmark = pytest.mark.parametrize("wire", WIRES)


class Host:
    """A client's side of questions: it answers, and keeps what it was asked."""

    def __init__(self, action: str = "accept", **content: Any) -> None:
        self.action = action
        self.content = content
        self.asked: list[Any] = []

    async def elicit(self, _: Any, params: Any) -> mcp_types.ElicitResult:
        self.asked.append(params)
        wants_content = params.mode == "form" and self.action == "accept"
        return mcp_types.ElicitResult.model_validate(
            {"action": self.action, "content": self.content if wants_content else None}
        )

    async def sample(self, _: Any, params: Any) -> mcp_types.CreateMessageResult:
        self.asked.append(params)
        content = mcp_types.TextContent(text="Paris")
        return mcp_types.CreateMessageResult(role="assistant", model="small", content=content)

    async def roots(self, _: Any) -> mcp_types.ListRootsResult:
        return mcp_types.ListRootsResult.model_validate({"roots": [{"uri": "file:///work"}]})

    @property
    def options(self) -> dict[str, Any]:
        return {
            "elicitation_callback": self.elicit,
            "sampling_callback": self.sample,
            "list_roots_callback": self.roots,
        }


async def text(client: Client, tool: str, **arguments: Any) -> str:
    """The text that a tool answers with."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    (content,) = result.content
    assert isinstance(content, mcp_types.TextContent)
    return content.text


async def test_every_tool_is_listed_with_a_sentence(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS
    assert all((tool.description or "").endswith((".", ")", ".)")) for tool in tools)


async def test_structured_output_fits_its_schema(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("count_text", {"text": "one two\nthree"})
    assert result.structured_content == {"characters": 13, "words": 3, "lines": 2}
    schema = tools["count_text"].output_schema
    assert schema is not None
    assert set(schema["required"]) == set(result.structured_content)


async def test_content_of_each_kind_is_answered(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:

        async def content(tool: str, **arguments: Any) -> Any:
            return (await client.call_tool(tool, arguments)).content[0]

        image = await content("tiny_image")
        assert (image.type, image.mime_type) == ("image", "image/png")
        message = await content("annotated_message", kind="error")
        assert (message.annotations.audience, message.annotations.priority) == (["user"], 1.0)
        link = await content("link_note", number=100)
        assert (link.type, link.uri) == ("resource_link", "demo://notes/100")
        embedded = (await content("embed_note", number=2)).resource
        assert (embedded.uri, embedded.text) == ("demo://notes/2", "This is note 2 of 100.")
        assert (await client.call_tool("link_note", {"number": 101})).is_error


async def test_an_app_is_a_tool_with_a_page_that_loads_nothing(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "hello_app"]
        assert tool.meta is not None
        page = (await client.read_resource(tool.meta["ui"]["resourceUri"])).contents[0]
        assert await text(client, "hello_app", name="Ann") == "Hello, Ann!"
    assert isinstance(page, mcp_types.TextResourceContents)
    assert page.mime_type == "text/html;profile=mcp-app"
    assert not re.search(r"https?:|src=|innerHTML", page.text)


async def test_the_clients_model_user_and_roots_are_asked(server: ResourceServer, wire: ConnectMode) -> None:
    host = Host(dish="soup", guests=3)
    async with server.client(server.authorization_server.issue(), wire, **host.options) as client:
        assert await text(client, "ask_model", question="Capital?") == "small answers 'Capital?': Paris"
        assert await text(client, "order_meal") == "soup for 3"
        assert await text(client, "list_roots") == "file:///work"
    sampled, form = host.asked
    assert sampled.messages[0].content.text == "Capital?"
    assert form.requested_schema["required"] == ["dish"]


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_user_may_say_no(server: ResourceServer, wire: ConnectMode, action: str) -> None:
    host = Host(action)
    async with server.client(server.authorization_server.issue(), wire, **host.options) as client:
        assert await text(client, "order_meal") == f"No meal: the user chose to {action}"
        assert await text(client, "open_account") == f"The user chose to {action}"


async def test_an_answer_that_does_not_fit_the_form_is_a_tool_error(server: ResourceServer, wire: ConnectMode) -> None:
    host = Host(dish="soup", guests=1000)
    async with server.client(server.authorization_server.issue(), wire, **host.options) as client:
        result = await client.call_tool("order_meal", {})
        assert result.is_error
        assert await text(client, "echo", text="still there") == "still there"


async def test_the_page_to_open_is_the_account_page_and_tells_nothing_of_the_user(
    server: ResourceServer, wire: ConnectMode
) -> None:
    pages = []
    for name in ("alice", "bob"):
        host = Host()
        token = server.authorization_server.issue(sub=name)
        async with server.client(token, wire, **host.options) as client:
            # Not that it was opened, or by whom: that cannot be known here.
            assert await text(client, "open_account") == "The user agreed to open the page"
        pages += [(params.mode, params.url) for params in host.asked]
    assert pages == [("url", f"{server.authorization_server.issuer}/account")] * 2


async def test_a_client_that_cannot_be_asked_is_told_what_it_lacks(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        for tool, arguments, capability in (
            ("ask_model", {"question": "Capital?"}, "sampling"),
            ("order_meal", {}, "elicitation"),
            ("list_roots", {}, "roots"),
        ):
            with pytest.raises(MCPError) as refused:
                await client.call_tool(tool, arguments)
            assert refused.value.error.code == -32021
            assert set(refused.value.error.data["requiredCapabilities"]) == {capability}
        assert "/account" in await text(client, "open_account")


async def test_notes_are_listed_in_pages(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        pages: list[list[str]] = []
        cursor = None
        while not pages or cursor is not None:
            page = await client.list_resources(cursor=cursor)
            pages.append([resource.uri for resource in page.resources])
            cursor = page.next_cursor
    assert [len(page) for page in pages] == [20, 20, 20, 20, 20, 1]
    assert [uri for page in pages for uri in page] == [f"demo://notes/{number}" for number in range(1, 101)] + [
        "ui://hello/hello.html"
    ]


@pytest.mark.parametrize("cursor", ["", "x", "MQ==", "LTIw", "MDIw", "MjA", "OTk5OTk5", "MjA=x", "é", "A" * 10_000])
async def test_a_cursor_that_the_server_did_not_give_is_refused(
    server: ResourceServer, wire: ConnectMode, cursor: str
) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_resources(cursor=cursor)
    assert refused.value.error.code == -32602


async def test_a_note_is_read_by_the_template(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "demo://notes/{number}"
        (contents,) = (await client.read_resource("demo://notes/42")).contents
        assert isinstance(contents, mcp_types.TextResourceContents)
        assert contents.text == "This is note 42 of 100."


@pytest.mark.parametrize("number", ["0", "101", "07", "-1", "x", "%2e%2e", "1/2", "²", "9" * 5000])
async def test_a_note_that_is_not_there_is_invalid(server: ResourceServer, wire: ConnectMode, number: str) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(f"demo://notes/{number}")
        assert refused.value.error.code == -32602
        with pytest.raises(MCPError) as refused:
            await client.get_prompt("discuss_note", {"number": number})
        assert refused.value.error.code == -32602


async def test_prompts_are_plain_with_arguments_and_with_a_resource(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == [
            "introduce_yourself",
            "translate",
            "discuss_note",
        ]

        async def contents(name: str, **arguments: str) -> list[Any]:
            return [message.content for message in (await client.get_prompt(name, arguments)).messages]

        assert (await contents("introduce_yourself"))[0].text == "Introduce yourself in two sentences."
        assert (await contents("translate", text="Hund"))[0].text == "Translate this into English:\n\nHund"
        embedded, question = await contents("discuss_note", number="3")
        assert embedded.resource.uri == "demo://notes/3"
        assert question.text == "What is this note about?"


@pytest.mark.parametrize(("name", "sentence"), [("nobody", "no prompt"), ("translate", "needs text")])
async def test_a_prompt_that_cannot_be_had_is_refused_with_a_sentence(
    server: ResourceServer, wire: ConnectMode, name: str, sentence: str
) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        with pytest.raises(MCPError, match=sentence) as refused:
            await client.get_prompt(name, {"language": "Greek"})
    assert refused.value.error.code == -32602


async def test_arguments_are_completed(server: ResourceServer, wire: ConnectMode) -> None:
    prompt = mcp_types.PromptReference(name="translate")
    template = mcp_types.ResourceTemplateReference(uri="demo://notes/{number}")
    async with server.client(server.authorization_server.issue(), wire) as client:

        async def values(ref: Any, name: str, value: str) -> list[str]:
            return (await client.complete(ref, {"name": name, "value": value})).completion.values

        assert await values(prompt, "language", "g") == ["German", "Greek"]
        assert await values(prompt, "text", "g") == []
        assert await values(template, "number", "10") == ["10", "100"]
        assert len(await values(template, "number", "")) == 100


async def test_a_client_gets_the_log_messages_that_it_wants(server: ResourceServer, wire: ConnectMode) -> None:
    got: list[tuple[str, Any]] = []

    async def note(params: mcp_types.LoggingMessageNotificationParams) -> None:
        got.append((params.level, params.data))

    options: dict[str, Any] = {"logging_callback": note, "log_level": "warning"}
    async with server.client(server.authorization_server.issue(), wire, **options) as client:
        if wire == "legacy":
            # Without a word from the client it gets everything.
            assert await text(client, "write_log", message="zero", level="debug") == "Sent"
            params = mcp_types.SetLevelRequestParams(level="warning")
            await client.session.send_request(mcp_types.SetLevelRequest(params=params), mcp_types.EmptyResult)
        assert await text(client, "write_log", message="one") == "Not sent: the client wants warning and above"
        assert await text(client, "write_log", message="two", level="warning") == "Sent"
        assert await text(client, "write_log", message="three", level="alert") == "Sent"
    assert got[-2:] == [("warning", "two"), ("alert", "three")]
    assert len(got) == (3 if wire == "legacy" else 2)


async def test_without_a_level_a_client_of_2026_07_28_gets_no_log_message(
    server: ResourceServer, wire: ConnectMode
) -> None:
    if wire != MODERN:
        return
    async with server.client(server.authorization_server.issue()) as client:
        assert await text(client, "write_log", message="x", level="emergency") == (
            "Not sent: the client wants no messages"
        )


async def subscribe(client: Client, uri: str) -> None:
    params = mcp_types.SubscribeRequestParams(uri=uri)
    await client.session.send_request(mcp_types.SubscribeRequest(params=params), mcp_types.EmptyResult)


async def unsubscribe(client: Client, uri: str) -> None:
    params = mcp_types.UnsubscribeRequestParams(uri=uri)
    await client.session.send_request(mcp_types.UnsubscribeRequest(params=params), mcp_types.EmptyResult)


async def test_subscribers_are_told_of_the_notes_that_they_asked_for(server: ResourceServer, wire: ConnectMode) -> None:
    issue = server.authorization_server.issue
    got: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Any) -> None:
        if isinstance(message, mcp_types.ResourceUpdatedNotification):
            got.put_nowait(message.params.uri)

    async with (
        server.client(issue(sub="alice"), wire, message_handler=note) as subscriber,
        server.client(issue(sub="bob"), wire) as other,
        AsyncExitStack() as listening,
    ):
        if wire == MODERN:
            await listening.enter_async_context(subscriber.listen(resource_subscriptions=["demo://notes/7"]))
        else:
            await subscribe(subscriber, "demo://notes/7")
        for number in (6, 7):
            await other.call_tool("touch_note", {"number": number})
        assert await asyncio.wait_for(got.get(), 5) == "demo://notes/7"
        if wire == MODERN:
            await listening.aclose()
        else:
            await unsubscribe(subscriber, "demo://notes/7")
        await other.call_tool("touch_note", {"number": 7})
        await subscriber.call_tool("echo", {"text": "x"})
    assert got.empty()


async def test_there_is_no_news_of_what_is_no_note(server: ResourceServer, wire: ConnectMode) -> None:
    if wire == MODERN:
        return
    async with server.client(server.authorization_server.issue(), wire) as client:
        with pytest.raises(MCPError) as refused:
            await subscribe(client, "demo://notes/101")
        assert refused.value.error.code == -32602
        await unsubscribe(client, "demo://notes/1")


async def test_without_sessions_an_older_client_is_told_that_it_cannot_be_asked(
    scripted: ScriptedAuthorizationServer, wire: ConnectMode
) -> None:
    host = Host(dish="soup")
    async with (
        resource_server(scripted, sessions="none") as server,
        server.client(scripted.issue(), wire, **host.options) as client,
    ):
        if wire == MODERN:
            assert await text(client, "order_meal") == "soup for 1"
        else:
            with pytest.raises(MCPError, match="back-channel"):
                await client.call_tool("order_meal", {})
        assert await text(client, "echo", text="still there") == "still there"
