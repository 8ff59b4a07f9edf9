"""Writes the services' settings into the chart's values.schema.json, so that it cannot fall behind them.

    scripts/chart_schema.py           write the definitions
    scripts/chart_schema.py --check   fail if they are not what the models say now

Written are the definitions named in DEFINITIONS, from the settings models; everything else in the file is kept. What
no value may hold is said in another way there, and the chart's "keystile.told" makes the setting of it: a secret such
as `client_secret` is `clientSecretKey`, a key in `existingSecret`; a file such as `ca_file` is `ca`, a key of a Secret
or ConfigMap.
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from keystile_auth.identity.settings import _OF_KIND, IdentitySettings
from keystile_auth.settings import AuthSettings
from keystile_mcp.settings import McpSettings

SCHEMA = Path(__file__).resolve().parent.parent / "charts" / "keystile" / "values.schema.json"
WIDTH = 130

_STORE = {
    f"store.{name}"
    for name in (
        "url", "sentinels", "sentinel_master", "sentinel_username", "sentinel_password", "cluster", "tls", "username",
        "password", "ca_file", "certificate_file", "key_file",
    )
}  # fmt: skip
_OF_EVERY_SERVICE = {"listen", "metrics", "trusted_proxies", "audit", "traces", "log", *_STORE}
# Settings that the chart makes from other values, or that make no sense in a cluster.
MADE_FOR_AUTH = _OF_EVERY_SERVICE | {
    "issuer", "master_key", "resources", "clients", "identity", "kubernetes", "metadata_documents.allow_loopback",
    "metadata_documents.ca_file",
}  # fmt: skip
MADE_FOR_MCP = _OF_EVERY_SERVICE | {
    "app", "request_state_key", "resource", "resource_name", "scopes", "required_scopes", "policy", "upstream",
    "handover", "revocations.url", "introspection.client_secret", "introspection.token_file",
    # The token of a pod's service account is made for one issuer.
    "trusted_issuers.introspection.token_file",
}  # fmt: skip

_OF_ALL = {"kind", "title"}
_KEY = {"$ref": "#/definitions/secretKey"}
_FILE = {"$ref": "#/definitions/file"}
# Sentences for people, and what an absent setting means: the services' business.
_NOT_FOR_VALUES = {"title", "description", "default", "format"}


def main() -> int:
    """Write or check the definitions; answers the exit status."""
    text = SCHEMA.read_text()
    schema = json.loads(text)
    schema["definitions"] |= definitions()
    written = pretty(schema) + "\n"
    if written == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{SCHEMA.name}: not up to date, run scripts/chart_schema.py", file=sys.stderr)
        return 1
    SCHEMA.write_text(written)
    return 0


def definitions() -> dict[str, Any]:
    """The definitions that are made from models, by their names in the schema."""
    identity = _section(IdentitySettings, set())
    identity["properties"]["egress"] = {"$ref": "#/definitions/egress"}
    fields = IdentitySettings.model_json_schema()["properties"]
    identity["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {
                "propertyNames": {"enum": sorted({"egress", *(_value_name(name, fields[name]) for name in names)})}
            },
        }
        for kind, names in ((kind, own | _OF_ALL) for kind, own in _OF_KIND.items())
    ]
    return {
        "authSettings": _some(_section(AuthSettings, MADE_FOR_AUTH)),
        "mcpSettings": _some(_section(McpSettings, MADE_FOR_MCP)),
        "identity": identity,
    }


def pretty(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON as a person would set it: on one line what fits there.

    Args:
        value: what to write.
        indent: columns that the lines begin with.
        before: columns of the first line that are taken already.
    """
    line = json.dumps(value, ensure_ascii=False)
    deep = isinstance(value, dict) and ("properties" in value or "definitions" in value) and len(value) > 1
    if not isinstance(value, dict | list) or (indent + before + len(line) <= WIDTH and not deep):
        return line
    pad = " " * (indent + 2)
    if isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            lines = textwrap.fill(", ".join(map(json.dumps, value)), WIDTH, initial_indent=pad, subsequent_indent=pad)
            return "[\n" + lines + "\n" + " " * indent + "]"
        inner = (f"{pad}{pretty(each, indent + 2)}" for each in value)
        return "[\n" + ",\n".join(inner) + "\n" + " " * indent + "]"
    named = ((json.dumps(name) + ": ", each) for name, each in value.items())
    inner = (f"{pad}{name}{pretty(each, indent + 2, len(name))}" for name, each in named)
    return "{\n" + ",\n".join(inner) + "\n" + " " * indent + "}"


def _section(model: type[BaseModel], left_out: set[str]) -> dict[str, Any]:
    schema = model.model_json_schema()
    made: dict[str, Any] = _values_of(schema, schema.get("$defs", {}), left_out, "")
    return made


def _some(section: dict[str, Any]) -> dict[str, Any]:
    """The section where the chart adds what is required."""
    return {name: value for name, value in section.items() if name != "required"}


def _values_of(schema: Any, known: dict[str, Any], left_out: set[str], path: str) -> Any:
    """What values may say where the settings have `schema`."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        # A value that is null is one that is not there.
        (schema,) = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return _values_of(schema, known, left_out, path)
    if "properties" in schema:
        return _closed(schema, known, left_out, path)
    made = {name: value for name, value in schema.items() if name not in _NOT_FOR_VALUES}
    for pattern, inner in made.pop("patternProperties", {}).items():
        made |= {"propertyNames": {"pattern": pattern}, "additionalProperties": inner}
    for name in ("items", "additionalProperties"):
        if isinstance(made.get(name), dict):
            made[name] = _values_of(made[name], known, left_out, path)
    kind = made.pop("type", None)
    return made if kind is None or "enum" in made else {"type": kind, **made}


def _closed(schema: Any, known: dict[str, Any], left_out: set[str], path: str) -> dict[str, Any]:
    properties = {}
    for name, field in schema["properties"].items():
        at = f"{path}{name}"
        if at in left_out:
            continue
        if _is(field, "password"):
            own = _KEY
        elif _is(field, "path"):
            own = _FILE
        else:
            own = _values_of(field, known, left_out, f"{at}.")
        properties[_value_name(name, field)] = own
    required = [name for name in schema.get("required", ()) if name in properties]
    closed = {"type": "object", "additionalProperties": False}
    return closed | ({"required": required} if required else {}) | {"properties": properties}


def _is(field: Any, form: str) -> bool:
    return form in {each.get("format") for each in (field, *field.get("anyOf", ()))}


def _value_name(name: str, field: Any) -> str:
    """What a value is called: as the setting, but for secrets and files."""
    first, *others = name.removesuffix("_file").split("_")
    camel = first + "".join(each.capitalize() for each in others)
    if _is(field, "password"):
        return f"{camel}Key"
    return camel if _is(field, "path") else name


if __name__ == "__main__":
    sys.exit(main())
