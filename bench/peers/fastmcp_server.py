"""FastMCP behind its introspection verifier: PORT ISSUER SECRET SECONDS. Runs in the peers' environment."""

import logging
import sys

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth.providers.introspection import IntrospectionTokenVerifier


def main() -> None:
    """Serve until told to stop."""
    port, issuer, secret, seconds = sys.argv[1:]
    resource = f"http://127.0.0.1:{port}/mcp"
    verifier = IntrospectionTokenVerifier(
        introspection_url=f"{issuer}/introspect",
        client_id="bench",
        client_secret=secret,
        required_scopes=["mcp:basic"],
        audience=resource,
        cache_ttl_seconds=int(seconds) or None,
    )
    server = FastMCP("bench", auth=verifier)

    async def echo(text: str) -> str:
        """Say it again."""
        return text

    server.tool(echo)
    logging.disable(logging.WARNING)
    uvicorn.run(
        server.http_app(),
        port=int(port),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
