"""Requests that recur on a connection: with the head of the one before, byte for byte, and another body.

What asks all day sends one head on connections that it keeps. All that a server makes of a head follows from its bytes
and from the connection, so an application that has looked at one may offer to answer its like by their bodies alone:
`recurring_protocol.py` passes them on without parsing them. docs/decisions/0030 has the figures.

An application finds where to make its offer, if it may make one, at `scope["extensions"][EXTENSION]`. Whoever is in
front of it and has to see every request takes that away.
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.responses import Response

EXTENSION = "keystile.recurring_requests"


class Answer(NamedTuple):
    """An answer as it is sent: its status line and headers, each line with its end, without a length; and its body."""

    head: bytes
    body: bytes

    @classmethod
    def of(cls, response: Response) -> "Answer":
        """What a framework's response would send."""
        lines = [b"%s: %s\r\n" % header for header in response.raw_headers if header[0] != b"content-length"]
        status = f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}\r\n"
        return cls(status.encode() + b"".join(lines), bytes(response.body))


AnswerAgain = Callable[[bytes], "Answer | Coroutine[Any, Any, Answer] | None"]
"""Answers a request by its body; None, with nothing done, for one that has to be served as ever.

It raises nothing, and neither does what it returns.
"""
Offer = Callable[[AnswerAgain], None]
"""How an application offers to answer the likes of a request, once that has turned out well."""
