"""The authorization server that is measured, as `keystile serve` runs it; a Valkey for it, and what is in that."""

import asyncio
import base64
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import yaml
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from redis import Redis

from bench.load import ROOT, Server, wait_for
from keystile_auth.clients.client import Client, Source
from keystile_auth.store import embedded, scripts
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grants import TOMBSTONE_MS
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens import opaque
from keystile_common.metrics import StoreMetrics
from keystile_common.settings import StoreSettings
from keystile_common.store import connect
from tests.auth_server import Pkce
from tests.cluster import Cluster
from tests.made_run import free_ports

RESOURCE = "https://tools.example.com/mcp"
SIGNED_RESOURCE = "https://signed.example.com/mcp"
PODS_RESOURCE = "https://pods.example.com/mcp"
SECRET = "bench-secret-" + "b" * 32
SCOPE = "mcp:basic"
CALLBACK = "http://127.0.0.1:49152/callback"
CLIENT = "bench-client"
_SUB = "user_bench"
_MASTER_KEY = base64.b64encode(b"b" * 32).decode()
PKCE = Pkce("v" * 64)
_SEED = 7662


def basic(name: str) -> str:
    """The header of a resource or client."""
    return "Basic " + base64.b64encode(f"{name}:{SECRET}".encode()).decode()


def _settings(port: int, metrics_port: int, store_port: int, cached: int, cluster: Cluster | None) -> dict[str, object]:
    def resource(uri: str, kind: str) -> dict[str, object]:
        return {"uri": uri, "title": "Tools", "scopes": {SCOPE: "Use them"}, "secret": SECRET, "access_token": kind}

    resources: dict[str, object] = {
        "tools": resource(RESOURCE, "opaque"),
        "signed": resource(SIGNED_RESOURCE, "jwt"),
    }
    kubernetes: dict[str, object] = {}
    if cluster is not None:
        pods = {"uri": PODS_RESOURCE, "title": "Pods", "scopes": {SCOPE: "Use them"}, "service_account": "tools/mcp"}
        resources["pods"] = pods
        kubernetes = {"kubernetes": {"url": cluster.url, "token_file": str(cluster.token_file)}}
    return {
        **kubernetes,
        "issuer": f"http://127.0.0.1:{port}",
        "master_key": _MASTER_KEY,
        "resources": resources,
        "clients": {
            "machine": {
                "title": "Machine",
                "secret": SECRET,
                "resources": [RESOURCE, SIGNED_RESOURCE],
                "scopes": [SCOPE],
            }
        },
        "listen": {"host": "127.0.0.1", "port": port},
        "metrics": {"host": "127.0.0.1", "port": metrics_port},
        "store": {"url": f"redis://127.0.0.1:{store_port}/0", "command_timeout_seconds": 2},
        "tokens": {"client_cache": cached},
    }


@contextlib.contextmanager
def valkey() -> Iterator[int]:
    """A store; gives its port."""
    with valkey_server() as server:
        yield int(server.url.rpartition(":")[2])


@contextlib.contextmanager
def valkey_server() -> Iterator[Server]:
    """A store with an append-only file, as the chart runs it."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ks-bench-") as folder:
        command = [str(embedded.find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += [
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(process, port)
            yield Server(process, f"redis://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(15)


@contextlib.contextmanager
def configured(
    store_port: int, cached: int = 0, cluster: Cluster | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Settings for one in a file; gives its port and the variables of its environment."""
    port, metrics_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="ks-bench-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(_settings(port, metrics_port, store_port, cached, cluster)))
        yield port, {**os.environ, "KEYSTILE_CONFIG": str(config)}


@contextlib.contextmanager
def authorization_server(
    store_port: int, cached: int = 0, cluster: Cluster | None = None, **variables: str
) -> Iterator[Server]:
    """Run one, with settings from more environment variables; its `url` is the issuer."""
    with configured(store_port, cached, cluster) as (port, environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.pinned", "keystile_auth", "serve"],
            cwd=ROOT,
            env={**environment, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(process, port)
            yield Server(process, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(15)


class Contents:
    """Fills the store with what clients would have put there, by the scripts that put it there for them."""

    def __init__(self, store_port: int) -> None:
        self._port = store_port
        self._random = random.Random(_SEED)
        self.client = Redis(port=store_port, decode_responses=True)

    def used_bytes(self) -> int:
        """What the store takes in memory, with the tables in which it finds its keys."""
        # Their buffers are no part of what is stored.
        self.client.connection_pool.disconnect()
        return int(self.client.info("memory")["used_memory"])

    def access_tokens(self, count: int, issuer: str, resource: str = RESOURCE) -> list[str]:
        """Live opaque tokens of `machine` for a resource."""
        issue = self.client.script_load(scripts.read_for_grant("issue_access_token"))
        listed = self.client.script_load(scripts.read_for_grant("list_grant"))
        texts: list[str] = []
        while len(texts) < count:
            pipeline = self.client.pipeline(transaction=False)
            for _ in range(min(1000, count - len(texts))):
                token = opaque.new_access_token(opaque.new_grant_id())
                answer = {
                    "active": True, "scope": SCOPE, "client_id": "machine", "token_type": "Bearer", "sub": "machine",
                    "aud": resource, "iss": issuer, "jti": token.hash,
                }  # fmt: skip
                opening = json.dumps(answer, separators=(",", ":"))[:-1]
                pipeline.evalsha(listed, 1, "ks:grants:client:machine", f"{token.grant_id}:{token.hash}", 3600_000)
                pipeline.evalsha(issue, 1, f"ks:{{{token.grant_id}}}", token.hash, 3600, resource, opening)
                texts.append(token.text)
            pipeline.execute()
        return texts

    def sample(self, texts: list[str], count: int) -> list[str]:
        """Some of them, always the same ones of as many."""
        return self._random.sample(texts, count)

    def codes(self, count: int, users: Sequence[str] = (_SUB,)) -> list[str]:
        """Codes that users have consented to in turn; they live for ten minutes, so that all can be made beforehand.

        Args:
            count: how many.
            users: their subjects, which are added if they are not there.
        """
        asyncio.run(self._client_and_users(users))
        create = self.client.script_load(scripts.read_for_grant("create_grant"))
        listed = self.client.script_load(scripts.read_for_grant("list_grant"))
        made = [opaque.new_code(opaque.new_grant_id()) for _ in range(count)]
        turn = cycle(users)
        for start in range(0, count, 1000):
            pipeline = self.client.pipeline(transaction=False)
            for code in made[start : start + 1000]:
                sub = next(turn)
                for listing in (f"ks:grants:client:{CLIENT}", f"ks:grants:user:{sub}"):
                    pipeline.evalsha(listed, 1, listing, code.grant_id, 3600_000)
                document = {
                    "state": "code", "sub": sub, "client_id": CLIENT, "resource": RESOURCE, "scopes": SCOPE,
                    "code": {"hash": code.hash, "challenge": PKCE.challenge, "redirect_uri": CALLBACK},
                    "access_tokens": {},
                }  # fmt: skip
                pipeline.evalsha(create, 1, f"ks:{{{code.grant_id}}}", json.dumps(document), 600_000, TOMBSTONE_MS)
            pipeline.execute()
        return [each.text for each in made]

    async def _client_and_users(self, users: Sequence[str]) -> None:
        settings = StoreSettings(url=f"redis://127.0.0.1:{self._port}/0", connect_timeout_seconds=2)
        store = connect(settings, StoreMetrics(CollectorRegistry()), NoOpTracer())
        public = Client(
            id=CLIENT,
            name="Bench",
            source=Source.REGISTRATION,
            redirect_uris=(CALLBACK,),
            grant_types=("authorization_code", "refresh_token"),
        )
        try:
            now = int(time.time())
            for sub in users:
                await UserStore(store).add(User(sub, sub, "no password", disabled=False, created=now))
            await ClientStore(store).add(CLIENT, public.to_json(), seconds=None)
        finally:
            await store.close()
