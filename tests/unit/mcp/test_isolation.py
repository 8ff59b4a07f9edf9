"""The resource server carries no code of the authorization server."""

import ast
import subprocess
import sys
from pathlib import Path

import keystile_mcp

PACKAGE = Path(keystile_mcp.__file__).parent
SCRIPT = """
import importlib, pkgutil, sys
import keystile_mcp
for module in pkgutil.walk_packages(keystile_mcp.__path__, "keystile_mcp."):
    importlib.import_module(module.name)
print("\\n".join(sys.modules))
"""


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_no_module_names_the_authorization_server() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 10
    for module in modules:
        assert not any(name.split(".")[0] == "keystile_auth" for name in imported_names(module)), module


def test_with_every_module_imported_nothing_of_the_authorization_server_is_loaded() -> None:
    listing = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in listing.stdout.split()}
    assert "keystile_mcp" in loaded
    assert not loaded & {"keystile_auth", "authlib", "jinja2", "argon2"}
