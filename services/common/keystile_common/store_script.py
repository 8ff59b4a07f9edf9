"""Scripts by their digest, and the key that a command is about."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from redis import exceptions

_SCRIPT_COMMANDS = frozenset({"EVAL", "EVALSHA"})


class Script:
    """A script by its digest; a server that does not know it gets the text.

    Args:
        execute: sends a command to the server that has the script's keys.
        text: the script.
    """

    def __init__(self, execute: Callable[..., Awaitable[Any]], text: str) -> None:
        self._execute = execute
        self._text = text
        self._digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 (that is what EVALSHA takes)

    async def __call__(self, keys: list[str], args: list[Any]) -> Any:
        """Run it."""
        try:
            return await self._execute("EVALSHA", self._digest, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            return await self._execute("EVAL", self._text, len(keys), *keys, *args)


def key_of(args: tuple[Any, ...]) -> str:
    """The first key of a command; the commands are those that Keystile sends."""
    if args[0] in _SCRIPT_COMMANDS:
        return str(args[3])
    if args[0] == "XREAD":
        return str(args[args.index(b"STREAMS") + 1])
    return str(args[1])


def slot_tag_of(key: str) -> str:
    """The part of a key that Redis Cluster hashes: what stands in its first braces, or all of it."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else key
