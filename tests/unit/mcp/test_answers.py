"""Messages are read, and changed, on their way to the client, however the answer is cut into pieces."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from keystile_mcp import answers
from keystile_mcp.answers import Answer, Look

JSON = (b"content-type", b"application/json; charset=utf-8")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class Target:
    """Takes a response, and checks that it is one."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        assert bool(self.messages) == (message["type"] == "http.response.body"), message
        assert not self.messages or self.messages[-1].get("more_body", True)
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


async def answered(
    pieces: list[bytes], look: Look, kind: tuple[bytes, bytes] = JSON, *headers: tuple[bytes, bytes]
) -> Target:
    target = Target()
    answer = Answer(target.send, look)
    length = (b"content-length", str(sum(map(len, pieces))).encode())
    sized = [length] if kind is JSON else []
    await answer.send({"type": "http.response.start", "status": 200, "headers": [kind, *sized, *headers]})
    for number, piece in enumerate(pieces, 1):
        await answer.send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
    assert not target.messages[-1]["more_body"]
    return target


def cut(body: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[begin:end] for begin, end in itertools.pairwise(bounds)]


def note(seen: list[dict[str, Any]]) -> Look:
    def look(message: dict[str, Any]) -> None:
        seen.append(message)

    return look


def rename(message: dict[str, Any]) -> dict[str, Any] | None:
    return {**message, "id": "changed"} if message.get("id") == 1 else None


@given(places=st.lists(st.integers(0, 200), max_size=6))
async def test_json_is_seen_whole_and_goes_on_untouched(places: list[int]) -> None:
    body = b' {"id": 1,  "result": {"text": "\xc3\xa4"}} '
    seen: list[dict[str, Any]] = []
    target = await answered(cut(body, places), note(seen))
    assert seen == [{"id": 1, "result": {"text": "ä"}}]
    assert target.body == body
    assert target.headers[b"content-length"] == str(len(body)).encode()


@given(places=st.lists(st.integers(0, 200), max_size=6))
async def test_json_that_is_changed_has_its_new_length(places: list[int]) -> None:
    target = await answered(cut(b'{"id":1,"result":{}}', places), rename)
    assert json.loads(target.body) == {"id": "changed", "result": {}}
    assert target.headers[b"content-length"] == str(len(target.body)).encode()


@given(
    places=st.lists(st.integers(0, 400), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    last=st.sampled_from([b"", b": half of a com"]),
)
async def test_each_event_is_seen_and_only_those_that_change_are_written_anew(
    places: list[int], end: bytes, last: bytes
) -> None:
    progress = b'id: 7\ndata: {"method":"notifications/progress"}\n\n'
    changed = b'event: message\nid: 8\ndata: {"id":1,\ndata:  "result":{}}\nretry: 5\n\n'
    comment = b": ping\n\nretry: 100\n\ndata:\n\ndata: no json\n\n"
    stream = (progress + comment + changed + progress).replace(b"\n", end) + last
    target = await answered(cut(stream, places), rename, EVENTS)
    written = b'event: message\nid: 8\nretry: 5\ndata: {"id":"changed","result":{}}\n\n'
    assert target.body == (progress + comment + written + progress).replace(b"\n", end) + last


async def test_an_event_goes_on_as_soon_as_it_is_whole() -> None:
    target = Target()
    answer = Answer(target.send, rename)
    await answer.send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
    assert len(target.messages) == 1
    await answer.send({"type": "http.response.body", "body": b"data: 1\n\ndata: 2", "more_body": True})
    assert target.body == b"data: 1\n\n"


@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_what_is_too_large_goes_on_unread(kind: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_READ_BYTES", 10)
    pieces = [b'{"id":1,', b'"result":', b'"x"}', b""]
    seen: list[dict[str, Any]] = []
    target = await answered(pieces, note(seen), kind)
    assert target.body == b"".join(pieces)
    assert seen == []


@pytest.mark.parametrize(
    ("kind", "encoding"), [((b"content-type", b"text/plain"), []), (JSON, [(b"content-encoding", b"gzip")])]
)
async def test_what_is_neither_json_nor_events_goes_on_unread(
    kind: tuple[bytes, bytes], encoding: list[tuple[bytes, bytes]]
) -> None:
    target = await answered([b'{"id":1}', b""], rename, kind, *encoding)
    assert target.body == b'{"id":1}'


@pytest.mark.parametrize("body", [b"", b"[]", b"[1]", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000])
async def test_what_is_no_message_goes_on_as_it_is(body: bytes) -> None:
    target = await answered([body], lambda _: pytest.fail("shown"))
    assert target.body == body
