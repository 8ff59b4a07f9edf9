"""The Lua scripts, one a file; each header names KEYS, ARGV and the answer."""

from importlib.resources import files


def read(name: str) -> str:
    """The text of `name`.lua."""
    return (files(__package__) / f"{name}.lua").read_text()


def read_for_grant(name: str) -> str:
    """The text of `name`.lua, with what the scripts on a grant share in front of it."""
    return read("grant") + read(name)
