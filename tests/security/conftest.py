"""What the tests of the authorization server's defences share."""

from collections.abc import Iterator

import pytest

from tests.auth_server import AuthServer
from tests.document_host import DocumentHost, running_document_host
from tests.person import Person


@pytest.fixture(scope="module")
def person(auth_server: AuthServer) -> Person:
    """Somebody with an account at the module's server."""
    return auth_server.person()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentHost]:
    """A web server of a stranger's."""
    with running_document_host(tmp_path_factory.mktemp("origin")) as running:
        yield running
