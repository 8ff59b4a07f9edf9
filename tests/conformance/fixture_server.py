"""The server that the official conformance suite expects: its tools, resources and prompts, by its names.

Served with Keystile in front by `keystile-mcp --app tests.conformance.fixture_server:server`, and bare, for
`keystile-mcp --upstream`, by `tests.conformance.bare_server`.
"""

import asyncio
import json
import struct
import zlib
from typing import Annotated, Any, get_args

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Audio, Context, Image, MCPServer, Resolve, Sample
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    LOG_LEVEL_META_KEY,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    LoggingLevel,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

LEVELS = get_args(LoggingLevel)

server = MCPServer("conformance-fixture", version="1", log_level="WARNING")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    + _chunk(b"IEND", b"")
)
_SAMPLES = b"\x80" * 8
WAV = (
    b"RIFF"
    + struct.pack("<I", 36 + len(_SAMPLES))
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    + b"data"
    + struct.pack("<I", len(_SAMPLES))
    + _SAMPLES
)


def _resource(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, text=text, mime_type=mime_type))


def _form(message: str, required: list[str] | None = None, **properties: dict[str, Any]) -> ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def _answer(context: Context, key: str) -> Any:
    return (context.input_responses or {}).get(key)


def _field(context: Context, key: str, name: str) -> Any:
    """What the user put into a field of the form asked as `key`; None if there is no such answer."""
    answer = _answer(context, key)
    accepted = isinstance(answer, ElicitResult) and answer.action == "accept" and answer.content
    return answer.content.get(name) if accepted and answer.content else None


def _text_of(answer: CreateMessageResult) -> str:
    return answer.content.text if isinstance(answer.content, TextContent) else ""


def _ask(_state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=_state)


# Content


@server.tool(structured_output=False)
def test_simple_text() -> str:
    """Answer with text."""
    return "This is a simple text response for testing."


@server.tool(structured_output=False)
def test_image_content() -> Image:
    """Answer with an image."""
    return Image(data=PNG, format="png")


@server.tool(structured_output=False)
def test_audio_content() -> Audio:
    """Answer with sound."""
    return Audio(data=WAV, format="wav")


@server.tool(structured_output=False)
def test_embedded_resource() -> EmbeddedResource:
    """Answer with a resource."""
    return _resource("test://embedded-resource", "This is an embedded resource content.")


@server.tool(structured_output=False)
def test_multiple_content_types() -> list[Any]:
    """Answer with text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        TextContent(text="Multiple content types test:"),
        Image(data=PNG, format="png"),
        _resource("test://mixed-content-resource", data, "application/json"),
    ]


@server.tool(structured_output=False)
def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


# Logs and progress


def _wants(context: Context, level: str) -> bool:
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        wanted: Any = (context.request_context.meta or {}).get(LOG_LEVEL_META_KEY)
    else:
        wanted = context.session._connection.state.get("level", LEVELS[0])
    return wanted in LEVELS and LEVELS.index(level) >= LEVELS.index(wanted)


async def _log(context: Context, message: str) -> None:
    if _wants(context, "info"):
        params = LoggingMessageNotificationParams(level="info", data=message)
        await context.session.send_notification(LoggingMessageNotification(params=params), context.request_id)


async def _set_level(context: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
    context.session._connection.state["level"] = params.level
    return EmptyResult()


server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)


@server.tool(structured_output=False)
async def test_tool_with_logging(context: Context) -> str:
    """Log three messages."""
    await _log(context, "Tool execution started")
    await asyncio.sleep(0.05)
    await _log(context, "Tool processing data")
    await asyncio.sleep(0.05)
    await _log(context, "Tool execution completed")
    return "Logged"


@server.tool(structured_output=False)
async def test_logging_tool(context: Context) -> str:
    """Log one message, to a client that wants it."""
    await _log(context, "A message")
    return "Logged"


@server.tool(structured_output=False)
async def test_tool_with_progress(context: Context) -> str:
    """Report progress three times."""
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
        await asyncio.sleep(0.05)
    return "Reported"


# Questions in the session, as revisions before 2026-07-28 have them


@server.tool(structured_output=False)
async def test_sampling(
    prompt: Annotated[str, Field(description="What to ask")],
    answer: Annotated[
        CreateMessageResult,
        Resolve(
            lambda prompt: Sample([SamplingMessage(role="user", content=TextContent(text=prompt))], max_tokens=100)
        ),
    ],
) -> str:
    """Ask the client's model."""
    return f"LLM response: {_text_of(answer)}"


async def _elicit(context: Context, message: str, schema: dict[str, Any]) -> str:
    result = await context.session.elicit_form(message, schema, context.request_id)
    return f"action={result.action}, content={json.dumps(result.content)}"


@server.tool(structured_output=False)
async def test_elicitation(context: Context, message: Annotated[str, Field(description="What to ask")]) -> str:
    """Ask the user."""
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    schema = {"type": "object", "properties": properties, "required": ["username", "email"]}
    return f"User response: {await _elicit(context, message, schema)}"


@server.tool(structured_output=False)
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    """Ask with a default for each kind of field."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await _elicit(context, "Defaults", {"type": "object", "properties": properties, "required": []})
    return f"Elicitation completed: {answer}"


@server.tool(structured_output=False)
async def test_elicitation_sep1330_enums(context: Context) -> str:
    """Ask with each way to choose."""

    def titled(*titles: str) -> list[dict[str, str]]:
        return [{"const": f"value{number}", "title": title} for number, title in enumerate(titles, 1)]

    options = ["option1", "option2", "option3"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled("First Option", "Second Option", "Third Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("First Choice", "Second Choice", "Third Choice")}},
    }
    answer = await _elicit(context, "Choices", {"type": "object", "properties": properties, "required": []})
    return f"Elicitation completed: {answer}"


# Questions in results, as 2026-07-28 has them


@server.tool(structured_output=False)
async def test_missing_capability(
    answer: Annotated[
        CreateMessageResult,
        Resolve(lambda: Sample([SamplingMessage(role="user", content=TextContent(text="Hi"))], max_tokens=10)),
    ],
) -> str:
    """Need the client's model."""
    return _text_of(answer)


_NAME = _form("What is your name?", name={"type": "string"})


@server.tool(structured_output=False)
async def test_streaming_elicitation(context: Context) -> str | InputRequiredResult:
    """Report progress, then ask."""
    await context.report_progress(1, 2)
    name = _field(context, "user_name", "name")
    return f"Hello, {name}!" if name else _ask(user_name=_NAME)


@server.tool(structured_output=False)
async def test_input_required_result_elicitation(context: Context) -> str | InputRequiredResult:
    """Ask the user."""
    name = _field(context, "user_name", "name")
    return f"Hello, {name}!" if isinstance(name, str) else _ask(user_name=_NAME)


@server.tool(structured_output=False)
async def test_input_required_result_sampling(context: Context) -> str | InputRequiredResult:
    """Ask the model."""
    answer = _answer(context, "capital_question")
    if isinstance(answer, CreateMessageResult):
        return _text_of(answer)
    return _ask(capital_question=_sample("What is the capital of France?", 100))


@server.tool(structured_output=False)
async def test_input_required_result_list_roots(context: Context) -> str | InputRequiredResult:
    """Ask for the roots."""
    answer = _answer(context, "client_roots")
    if isinstance(answer, ListRootsResult):
        return f"Roots: {', '.join(str(root.uri) for root in answer.roots)}"
    return _ask(client_roots=ListRootsRequest())


_CONFIRM = _form("Please confirm", ok={"type": "boolean"})


@server.tool(structured_output=False)
async def test_input_required_result_request_state(context: Context) -> str | InputRequiredResult:
    """Ask, and know the answer again by the state."""
    if _field(context, "confirm", "ok") is not None and context.request_state == "asked":
        return "state-ok"
    return _ask("asked", confirm=_CONFIRM)


@server.tool(structured_output=False)
async def test_input_required_result_tampered_state(context: Context) -> str | InputRequiredResult:
    """The same; the suite changes the state."""
    if _field(context, "confirm", "ok") is not None and context.request_state == "asked":
        return "confirmed"
    return _ask("asked", confirm=_CONFIRM)


@server.tool(structured_output=False)
async def test_input_required_result_multiple_inputs(context: Context) -> str | InputRequiredResult:
    """Ask the user, the model and for the roots at once."""
    name, greeting, roots = (
        _field(context, "user_name", "name"),
        _answer(context, "greeting"),
        _answer(context, "client_roots"),
    )
    if name and isinstance(greeting, CreateMessageResult) and isinstance(roots, ListRootsResult):
        return f"{_text_of(greeting)} {name}, {len(roots.roots)} roots"
    return _ask("asked", user_name=_NAME, greeting=_sample("Generate a greeting", 50), client_roots=ListRootsRequest())


@server.tool(structured_output=False)
async def test_input_required_result_multi_round(context: Context) -> str | InputRequiredResult:
    """Ask twice; the state remembers the first answer."""
    name = json.loads(context.request_state or "null")
    if name is None:
        name = _field(context, "step1", "name")
        if name is None or context.request_state is None:
            return _ask("null", step1=_form("Step 1: What is your name?", name={"type": "string"}))
        step = _form("Step 2: What is your favorite color?", color={"type": "string"})
        return _ask(json.dumps(name), step2=step)
    colour = _field(context, "step2", "color")
    if colour is None:
        return _ask(
            context.request_state, step2=_form("Step 2: What is your favorite color?", color={"type": "string"})
        )
    return f"{name} likes {colour}"


@server.tool(structured_output=False)
async def test_input_required_result_capabilities(context: Context) -> str | InputRequiredResult:
    """Ask whatever the client can be asked."""
    if context.input_responses:
        return "Answered"
    can = context.client_capabilities
    requests: dict[str, InputRequest] = {}
    if can is not None and can.elicitation is not None:
        requests["user_name"] = _NAME
    if can is not None and can.sampling is not None:
        requests["greeting"] = _sample("Generate a greeting", 50)
    if can is not None and can.roots is not None:
        requests["client_roots"] = ListRootsRequest()
    return _ask(**requests) if requests else "This client cannot be asked"


# Lists that change, and a stream that breaks


@server.tool(structured_output=False)
async def test_trigger_tool_change(context: Context) -> str:
    """Tell that the tools have changed."""
    await context.notify_tools_changed()
    return "Told"


@server.tool(structured_output=False)
async def test_trigger_prompt_change(context: Context) -> str:
    """Tell that the prompts have changed."""
    await context.notify_prompts_changed()
    return "Told"


@server.tool(structured_output=False)
async def test_reconnection(context: Context) -> str:
    """Close the stream before the answer."""
    await context.close_sse_stream()
    await asyncio.sleep(0.1)
    return "Reconnected"


# Schemas


@server.tool(structured_output=False)
def json_schema_2020_12_tool(name: str = "") -> str:
    """Tool with JSON Schema 2020-12 features."""
    return name


_tool = server._tool_manager.get_tool("json_schema_2020_12_tool")
assert _tool is not None
_tool.parameters = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@server.tool(structured_output=False)
def test_header_parameter(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Have a parameter that is in a header too."""
    return f"Region {region}"


# Resources


@server.resource("test://static-text", name="static-text", description="Text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", name="static-binary", description="An image", mime_type="image/png")
def static_binary() -> bytes:
    return PNG


@server.resource("test://watched-resource", name="watched-resource", description="Watched", mime_type="text/plain")
def watched_resource() -> str:
    return "Watched"


@server.resource("test://template/{id}/data", name="template", description="Data", mime_type="application/json")
def template_data(id: str) -> str:
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


async def _subscribe(context: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
    context.session._connection.state.setdefault("subscribed", set()).add(params.uri)
    return EmptyResult()


async def _unsubscribe(context: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
    context.session._connection.state.setdefault("subscribed", set()).discard(params.uri)
    return EmptyResult()


server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, _subscribe)
server._lowlevel_server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _unsubscribe)


# Prompts


@server.prompt()
def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(
    arg1: Annotated[str, Field(description="The first argument")],
    arg2: Annotated[str, Field(description="The second argument")],
) -> str:
    """A prompt with arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
def test_prompt_with_embedded_resource(
    resourceUri: Annotated[str, Field(description="Which resource")],  # noqa: N803 (the suite's name)
) -> list[UserMessage]:
    """A prompt with a resource."""
    return [
        UserMessage(_resource(resourceUri, "Embedded resource content for testing.")),
        UserMessage("Please process the embedded resource above."),
    ]


@server.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image."""
    return [UserMessage(Image(data=PNG, format="png")), UserMessage("Please analyze the image above.")]


@server.prompt()
async def test_input_required_result_prompt(context: Context) -> str | InputRequiredResult:
    """A prompt that asks first."""
    wanted = _field(context, "user_context", "context")
    question = _form("What context should the prompt use?", context={"type": "string"})
    return f"Use this context: {wanted}" if wanted else _ask(user_context=question)


@server.completion()  # type: ignore[no-untyped-call, untyped-decorator] # the SDK gives it no types
async def _complete(
    _: PromptReference | ResourceTemplateReference, argument: CompletionArgument, __: CompletionContext | None
) -> Completion:
    values = [value for value in ("paris", "park", "party") if value.startswith(argument.value)]
    return Completion(values=values, total=len(values), has_more=False)
