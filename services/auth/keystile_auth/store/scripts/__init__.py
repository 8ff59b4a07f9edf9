"""The Lua scripts, one a file; each header names KEYS, ARGV and the answer.

`#!lua` in the first line makes a full store refuse the whole script rather than stop it half-way; `allow-oom` is
for those that take away.
"""

from importlib.resources import files


def read(name: str) -> str:
    """The text of `name`.lua."""
    return (files(__package__) / f"{name}.lua").read_text()


def read_for_grant(name: str) -> str:
    """The text of `name`.lua, with what the scripts on a grant share behind its first line, `#!lua`."""
    shebang, _, script = read(name).partition("\n")
    return f"{shebang}\n{read('grant')}{script}"
