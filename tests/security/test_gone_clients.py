"""A client that goes away in the middle of its request."""

import socket
import time
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from keystile_auth.endpoints.parameters import FORM
from tests.auth_server import AuthServer


@pytest.mark.parametrize("path", ["/token", "/introspect", "/revoke"])
def test_a_client_that_goes_away_before_its_form_is_whole_is_no_mistake_of_the_server(
    auth_server: AuthServer, path: str
) -> None:
    at = urlsplit(auth_server.issuer)
    assert at.hostname is not None
    with capture_logs() as logs:
        for _ in range(5):
            with socket.create_connection((at.hostname, at.port or 80)) as connection:
                head = f"POST {at.path}{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n"
                connection.sendall(f"{head}\r\ngrant_type=".encode())
                time.sleep(0.05)
        assert auth_server.http.get(f"{auth_server.issuer}/jwks").status_code == 200
    assert [each for each in logs if each["log_level"] == "error"] == []
