"""Which Host and Origin headers the endpoint accepts."""

from keystile_mcp.host_and_origin import allowed_hosts, allowed_origins
from tests.unit.mcp.samples import make_settings


def test_a_public_resource_answers_to_its_own_host() -> None:
    settings = make_settings(resource="https://tools.example.com/mcp")
    assert allowed_hosts(settings) == ["tools.example.com", "tools.example.com:443"]


def test_a_public_resource_on_a_port_answers_to_that_port() -> None:
    settings = make_settings(resource="https://tools.example.com:8443/mcp")
    assert allowed_hosts(settings) == ["tools.example.com:8443"]


def test_a_local_resource_answers_to_every_loopback_name() -> None:
    settings = make_settings(resource="http://127.0.0.1:3232/mcp")
    assert allowed_hosts(settings) == ["127.0.0.1:3232", "localhost:3232", "[::1]:3232"]
    assert allowed_hosts(make_settings(resource="http://localhost/mcp"))[1] == "localhost"


def test_pages_of_the_resource_and_of_the_allowed_origins_may_call() -> None:
    settings = make_settings(allowed_origins=["https://app.example.com"])
    assert allowed_origins(settings) == [
        "https://app.example.com",
        "https://tools.example.com",
        "https://tools.example.com:443",
    ]
