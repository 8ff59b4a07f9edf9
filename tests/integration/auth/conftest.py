"""What the tests of the authorization server share."""

from collections.abc import Iterator

import pytest

from tests.auth_server import AuthServer, running_auth_server
from tests.document_host import DocumentHost, running_document_host
from tests.operator import Operator
from tests.person import Person


@pytest.fixture(scope="session")
def document_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentHost]:
    """Where clients publish their metadata documents."""
    with running_document_host(tmp_path_factory.mktemp("authority")) as host:
        yield host


@pytest.fixture(scope="module")
def auth_server(store_url: str, document_host: DocumentHost) -> Iterator[AuthServer]:
    """As everywhere, and it trusts the document host."""
    documents = {
        "allow_loopback": True,
        "ca_file": document_host.ca_file,
        "fetches_per_minute_and_address": 100_000,
    }
    with running_auth_server(store_url, metadata_documents=documents) as server:
        yield server


@pytest.fixture(scope="module")
def person(auth_server: AuthServer) -> Person:
    """A person whom a module's tests share: signed in at the first need, and never signed out."""
    return auth_server.person()


@pytest.fixture(scope="session")
def operator(store_url: str) -> Operator:
    """Runs `keystile` commands on the store."""
    return Operator(store_url)
