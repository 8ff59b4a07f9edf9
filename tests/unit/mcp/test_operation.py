"""What the policy reads out of a message is what the SDK reads out of it."""

import json

import pydantic_core
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keystile_mcp.operation import MessageError, Operation, bodiless_operation, read_operation


def test_a_tool_call_is_read_with_its_tool() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
    assert read_operation(body) == Operation("tools/call", "echo", 1)


@pytest.mark.parametrize(
    ("body", "method"),
    [
        (b'{"method":"tools/list"}', "tools/list"),
        (b'{"method":"notifications/initialized"}', "notifications/initialized"),
        (b'{"method":"made/up"}', "unknown"),
        (b'{"method":["tools/call"]}', "unknown"),
        (b'{"method":null}', "unknown"),
        (b'{"id":1,"result":{}}', "response"),
    ],
)
def test_another_message_is_read_as_a_method_of_a_closed_set(body: bytes, method: str) -> None:
    assert read_operation(body) == Operation(method)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"[" * 100_000, -32700),
        (b'\xef\xbb\xbf{"method":"tools/call","params":{"name":"echo"}}', -32700),
        ('{"method":"tools/call","params":{"name":"echo"}}'.encode("utf-16"), -32700),
        (b'{"method":"tools/call","params":{"name":"\\ud800"}}', -32700),
        (b"[]", -32600),
        (b'[{"method":"tools/list"}]', -32600),
        (b'"tools/call"', -32600),
        (b"null", -32600),
        (b'{"method":"tools/call"}', -32602),
        (b'{"method":"tools/call","params":[]}', -32602),
        (b'{"method":"tools/call","params":{"name":5}}', -32602),
        (b'{"method":"tools/call","params":{"name":null}}', -32602),
    ],
)
def test_what_could_be_read_differently_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(MessageError) as problem:
        read_operation(body)
    assert problem.value.code == code


def test_a_refusal_names_the_request_that_it_answers() -> None:
    for given_id, told in (("1", 1), ('"a"', "a"), ("[]", None), ("1.5", None)):
        with pytest.raises(MessageError) as problem:
            read_operation(f'{{"id":{given_id},"method":"tools/call"}}'.encode())
        assert problem.value.request_id == told


names = st.text(max_size=8)
keys = st.sampled_from(["method", "params", "name", "Name", "method ", "m\\u0065thod"])
values = st.one_of(names.map(json.dumps), st.just('"tools/call"'), st.just("1"), st.just("NaN"), st.just("null"))


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> str:
    """JSON text of objects whose keys may come twice and may be spelled with escapes."""
    members = []
    for _ in range(draw(st.integers(0, 4))):
        nested = depth > 0 and draw(st.booleans())
        members.append(f'"{draw(keys)}":{draw(objects(depth - 1)) if nested else draw(values)}')
    return "{" + ",".join(members) + "}"


@given(objects())
@example('{"method":"tools/list","method":"tools/call","params":{"name":"a","name":"b"}}')
@example('{"m\\u0065thod":"tools/call","params":{"n\\u0061me":"a"}}')
def test_both_of_the_sdks_parsers_read_the_same_tool(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        operation = read_operation(body)
    except MessageError:
        return
    for message in (json.loads(body), pydantic_core.from_json(body)):
        called = message["params"]["name"] if message.get("method") == "tools/call" else None
        assert called == operation.tool


@pytest.mark.parametrize(("http_method", "name"), [("GET", "get"), ("DELETE", "delete"), ("MADEUP", "unknown")])
def test_a_request_without_a_message_is_named_by_a_closed_set_too(http_method: str, name: str) -> None:
    assert bodiless_operation(http_method) == Operation(name)
