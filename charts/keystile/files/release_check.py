"""What `helm test` asks of a release, from inside the cluster: everything that a client asks, up to a tool's answer.

Standard library only. The environment says where things are:
    ISSUER, AUTH            the issuer, and the address of the authorization server inside the cluster; none of an external
    SERVERS                 JSON: [{name, resource, issuer, address, scope, tool}]
    CA_FILE                 the certificate authority of addresses that are https
    CLIENT_ID, CLIENT_ASSERTION_FILE   who gets a token, and its proof (RFC 7523); without them the test ends earlier
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

REVISION = "2026-07-28"
TIMEOUT_SECONDS = 10
PATIENCE_SECONDS = 60

ISSUER, AUTH = os.environ["ISSUER"], os.environ.get("AUTH")
PREFIX = urllib.parse.urlsplit(ISSUER).path
CLIENT_ID = os.environ.get("CLIENT_ID")
TRUST = ssl.create_default_context(cafile=os.environ.get("CA_FILE"))


def ask(url, public, data=None, headers=None):
    """The status, headers and body of one request; `public` is the URL whose host the server goes by."""
    host = {"Host": urllib.parse.urlsplit(public).netloc}
    request = urllib.request.Request(url, data=data, headers=host | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=TRUST) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def expect(what, seen, wanted):
    """Say how a check went; the first that fails ends the test."""
    if seen != wanted:
        sys.exit(f"FAILED  {what}: expected {wanted!r}, saw {seen!r}")
    print(f"ok      {what}", flush=True)


def wait_for(address, public):
    """A rollout may still be under way."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if ask(f"{address}/readyz", public)[0] == 200:
                return
            problem = "it is not ready"
        except OSError as error:
            problem = str(error)
        if time.monotonic() > end:
            sys.exit(f"FAILED  {address} for {PATIENCE_SECONDS} s: {problem}")
        time.sleep(1)


def form(**fields):
    """A body of form fields."""
    return urllib.parse.urlencode(fields).encode()


def call(server, token, method, **params):
    """One MCP request as the stateless revision has it; the status, the headers and the answer."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "helm test", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Mcp-Protocol-Version": REVISION,
        "Mcp-Method": method,
        **({"Mcp-Name": params["name"]} if "name" in params else {}),
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    path = urllib.parse.urlsplit(server["resource"]).path
    return ask(server["address"] + path, server["resource"], json.dumps(message).encode(), headers)


def check_authorization_server(resources):
    """Its metadata, and that introspection is closed to strangers."""
    status, _, body = ask(f"{AUTH}/.well-known/oauth-authorization-server{PREFIX}", ISSUER)
    expect("the authorization server tells its metadata", status, 200)
    metadata = json.loads(body)
    expect("they have the configured issuer", metadata["issuer"], ISSUER)
    expect("they name every resource here", set(resources) <= set(metadata["protected_resources"]), True)
    status, _, _ = ask(f"{AUTH}{PREFIX}/introspect", ISSUER, form(token="none"))
    expect("introspection refuses strangers", status, 401)


def check_challenge(server):
    """What a client without a token finds out (RFC 9728)."""
    name, parts = server["name"], urllib.parse.urlsplit(server["resource"])
    path = f"/.well-known/oauth-protected-resource{parts.path}"
    status, _, body = ask(server["address"] + path, server["resource"])
    expect(f"{name} tells its metadata", status, 200)
    metadata = json.loads(body)
    expect(f"{name} is the configured resource", metadata["resource"], server["resource"])
    expect(f"{name} names the authorization server", metadata["authorization_servers"], [server["issuer"]])
    status, headers, _ = call(server, None, "tools/list")
    expect(f"{name} answers 401 without a token", status, 401)
    wanted = f'resource_metadata="{parts.scheme}://{parts.netloc}{path}"'
    expect(f"{name} says where its metadata are", wanted in headers.get("WWW-Authenticate", ""), True)


def token_for(server):
    """An access token for one server, by the client credentials grant."""
    proof = {
        "client_id": CLIENT_ID,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": Path(os.environ["CLIENT_ASSERTION_FILE"]).read_text().strip(),
    }
    scope = {"scope": server["scope"]} if server["scope"] else {}
    fields = form(grant_type="client_credentials", resource=server["resource"], **scope, **proof)
    status, _, body = ask(f"{AUTH}{PREFIX}/token", ISSUER, fields)
    expect(f"there is a token for {server['name']}", (status, body if status != 200 else b""), (200, b""))
    return json.loads(body)["access_token"]


def check_token(server, token, others):
    """The token opens its server and no other."""
    status, _, body = call(server, token, "tools/list")
    expect(f"{server['name']} lists its tools", (status, "tools" in json.loads(body).get("result", {})), (200, True))
    if server["tool"]:
        status, _, body = call(server, token, "tools/call", name=server["tool"], arguments={"text": "hello"})
        expect(f"{server['name']} answers the tool {server['tool']}", (status, b"hello" in body), (200, True))
    for other in others:
        status, _, _ = call(other, token, "tools/list")
        expect(f"{other['name']} refuses a token for {server['name']}", status, 401)


def main():
    """Check the release."""
    servers = json.loads(os.environ["SERVERS"])
    if AUTH is not None:
        wait_for(AUTH, ISSUER)
        check_authorization_server([server["resource"] for server in servers])
    for server in servers:
        wait_for(server["address"], server["resource"])
        check_challenge(server)
    if AUTH is None:
        print("no token was asked for: the authorization server is not this release's")
        return
    if CLIENT_ID is None:
        print("no token was asked for: auth.testClient is false")
        return
    tokens = [token_for(server) for server in servers]
    for server, token in zip(servers, tokens, strict=True):
        check_token(server, token, [other for other in servers if other is not server])


main()
