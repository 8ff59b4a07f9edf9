"""A stock MCP client: the SDK's own, with its OAuth client in it, and the person who uses it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from tests.person import Person

CALLBACK = "http://127.0.0.1:49153/callback"


class Run(Protocol):
    """Whatever runs an MCP server."""

    @property
    def resource(self) -> str: ...


@dataclass
class Storage:
    """Where the SDK's client keeps what it got."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    history: list[OAuthToken] = field(default_factory=list)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens
        self.history.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Assistant:
    """An MCP client with the SDK's own OAuth client in it, and the person who uses it."""

    run: Run
    person: Person
    storage: Storage = field(default_factory=Storage)
    client_metadata_url: str | None = None
    verify: ssl.SSLContext | bool = True
    sign_ins: int = 0
    _callback: str = ""

    async def _open_browser(self, url: str) -> None:
        self.sign_ins += 1
        self._callback = await anyio.to_thread.run_sync(self.person.allow, url)

    async def _wait_for_callback(self) -> AuthorizationCodeResult:
        assert self._callback.startswith(CALLBACK + "?")
        answer = {name: values[0] for name, values in parse_qs(urlsplit(self._callback).query).items()}
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        provider = OAuthClientProvider(
            server_url=self.run.resource,
            client_metadata=OAuthClientMetadata(
                client_name="Newcomer's assistant", redirect_uris=[AnyUrl(CALLBACK)], token_endpoint_auth_method="none"
            ),
            storage=self.storage,
            redirect_handler=self._open_browser,
            callback_handler=self._wait_for_callback,
            client_metadata_url=self.client_metadata_url,
        )
        async with (
            httpx2.AsyncClient(auth=provider, timeout=20, verify=self.verify) as http,
            Client(streamable_http_client(self.run.resource, http_client=http)) as client,
        ):
            yield client
