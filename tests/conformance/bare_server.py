"""Serves the fixture server with nothing in front of it: the upstream of a proxy. `python -m … PORT`."""

import sys

import uvicorn

from tests.conformance.fixture_server import server

if __name__ == "__main__":
    uvicorn.run(
        server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning"
    )
