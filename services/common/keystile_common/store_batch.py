"""Commands that are sent together: one wait for all of their answers."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.commands import AsyncCoreCommands

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""A command's arguments, and how redis-py is to read its answer."""

# Their types speak of a client with connections of its own.
_Commands: Any = AsyncCoreCommands


class Batch(_Commands):  # type: ignore[misc]
    """Takes commands by redis-py's names, and sends them when it is told to.

    Each is a command on one key. They are no transaction: some may be done though others fail, in no certain order
    where keys are on several nodes.

    Args:
        send: sends commands and answers what each was answered, errors too.
    """

    def __init__(self, send: Callable[[list[Command]], Awaitable[list[Any]]]) -> None:
        self._send = send
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> "Batch":
        """Keep a command."""
        self._commands.append((args, options))
        return self

    async def execute(self) -> list[Any]:
        """Send what was kept; the answers, in its order.

        Raises:
            TimeoutError, redis.exceptions.RedisError: one was not done; nothing is known of the others.
        """
        commands, self._commands = self._commands, []
        answers = await self._send(commands) if commands else []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers
