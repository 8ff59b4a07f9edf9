"""Stores of every shape for tests: one server, a master with sentinels, a cluster; each of real processes."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis, RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisError

from keystile_auth.store.embedded import find_binary

MASTER = "keystile"
PASSWORD = "store-password-" + "p" * 16
SENTINEL_PASSWORD = "sentinel-password-" + "s" * 16
USER = f"keystile on >{PASSWORD} ~ks:* &* +@all -@dangerous +info"
SENTINEL_USER = f"asking on >{SENTINEL_PASSWORD} +auth +hello +ping +client +command +sentinel|master"
_SLOTS = 16384
_FAILOVER_MS = 1000
_NODE_TIMEOUT_MS = 1500
BUSY_SECONDS = 3.0
"""What a slowest answer may take more than is promised where other tests have the machine's cores."""


def eventually(check: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait until `check` is true; a store that does not answer yet counts as no."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(RedisError, OSError):
            if check():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port that nothing listens on; below those that outgoing connections get, and with room for a bus."""
    for port in iter(_next_port, 0):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError


_last_port = 12000 + os.getpid() * 37 % 8000


def _next_port() -> int:
    global _last_port  # noqa: PLW0603
    _last_port += 1
    return _last_port


_named: dict[str, "Stores"] = {}


@contextmanager
def named(shape: str, folder: Path) -> Iterator[str]:
    """Run a store of `shape`; gives what stands for its URL in `settings_of` and `client_of`."""
    with SHAPES[shape](Site(folder)) as stores:
        name = f"{shape}:{folder}"
        _named[name] = stores
        try:
            yield name
        finally:
            del _named[name]


def settings_of(store_url: str) -> dict[str, Any]:
    """Keystile's settings for the store at a URL, or for one that is `named`."""
    stores = _named.get(store_url)
    return stores.settings if stores else {"url": store_url}


def client_of(store_url: str) -> Any:
    """A test's own client of the same, which has the same commands whatever the shape."""
    stores = _named.get(store_url)
    if stores is None:
        return Redis.from_url(store_url, decode_responses=True)
    if "cluster" in stores.settings:
        host, _, port = stores.servers[0].address.rpartition(":")
        return RedisCluster(host=host, port=int(port), decode_responses=True)
    return stores.master().client if stores.sentinels else stores.servers[0].client


@dataclass(frozen=True)
class Site:
    """Where servers run: here and in the clear, or in a container whose server knows TLS."""

    folder: Path
    certificates: Path | None = None  # ca.crt, tls.crt and tls.key, for servers and clients
    container: str | None = None

    @property
    def launcher(self) -> list[str]:
        """The program and what comes before it."""
        if self.container is None:
            return [str(find_binary())]
        user = f"{os.getuid()}:{os.getgid()}"
        return ["docker", "exec", "--user", user, self.container, "valkey-server"]

    def listening(self, port: int) -> list[str]:
        """Options that make a server listen."""
        if self.certificates is None:
            return ["--port", str(port)]
        folder = str(self.certificates)
        return [
            "--port", "0", "--tls-port", str(port), "--tls-replication", "yes", "--tls-cluster", "yes",
            "--tls-ca-cert-file", f"{folder}/ca.crt", "--tls-cert-file", f"{folder}/tls.crt",
            "--tls-key-file", f"{folder}/tls.key",
        ]  # fmt: skip

    @property
    def connecting(self) -> dict[str, Any]:
        """What a test's own client needs to connect."""
        if self.certificates is None:
            return {}
        folder = str(self.certificates)
        return {
            "ssl": True,
            "ssl_ca_certs": f"{folder}/ca.crt",
            "ssl_certfile": f"{folder}/tls.crt",
            "ssl_keyfile": f"{folder}/tls.key",
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Keystile's settings for the same."""
        if self.certificates is None:
            return {}
        files = {"ca_file": "ca.crt", "certificate_file": "tls.crt", "key_file": "tls.key"}
        return {setting: self.certificates / name for setting, name in files.items()}


@dataclass(eq=False)
class Server:
    """One process, of data or a sentinel."""

    site: Site
    name: str
    options: list[str] = field(default_factory=list)
    is_sentinel: bool = False
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def folder(self) -> Path:
        return self.site.folder / self.name

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The setting `store.url` that leads to it."""
        return f"{'rediss' if self.site.certificates else 'redis'}://{self.address}/0"

    @property
    def client(self) -> "Redis":
        return Redis(host="127.0.0.1", port=self.port, socket_timeout=5, decode_responses=True, **self.site.connecting)

    def start(self) -> None:
        """Start it on what the last one left, and wait for it."""
        self.folder.mkdir(exist_ok=True)
        command = self.site.launcher
        if self.is_sentinel:
            command += [str(self.folder / "sentinel.conf"), "--sentinel"]
        options = [*self.site.listening(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--logfile", str(self.folder / "log")]
        if not self.is_sentinel:
            options += ["--user", *USER.split(), "--save", "", "--appendfsync", "always"]
            options += ["--maxmemory-policy", "noeviction"]
        options += self.options
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.answers, f"{self.folder} did not start")

    def answers(self) -> bool:
        with self.client as client:
            return bool(client.ping())

    def ask(self, *command: str | int) -> Any:
        """The answer to one command, as the server writes it."""
        with self.client as client:
            return client.execute_command(*command)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It neither answers nor goes away while the block runs."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """It is not there while the block runs; unlike one that is paused, it does nothing late."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            self.kill()


@dataclass
class Stores:
    """Servers that make one store, and the settings that lead to it."""

    settings: dict[str, Any]
    servers: list[Server]
    sentinels: list[Server] = field(default_factory=list)

    def owner(self, key: str) -> Server:
        """The server of the cluster that has a key."""
        if len(self.servers) == 1:
            return self.servers[0]
        slot = key_slot(key.encode())
        return next(
            server
            for first, last, server in zip(*_ranges(len(self.servers)), self.servers, strict=True)
            if first <= slot <= last
        )

    def master(self) -> Server:
        """The server that the sentinels name."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.servers if server.port == int(port))


@contextmanager
def valkey(folder: Path, *options: str) -> Iterator[Server]:
    """A server of a test's own that keeps an append-only file, to be stopped, killed and filled; `options` are more."""
    with _running([Server(Site(folder), "valkey", ["--appendonly", "yes", *options])]) as (server,):
        yield server


@contextmanager
def standalone(site: Site) -> Iterator[Stores]:
    """One server."""
    with _running([Server(site, "one")]) as servers:
        yield Stores({"url": servers[0].url, "username": "keystile", "password": PASSWORD, **site.settings}, servers)


@contextmanager
def replicated(site: Site) -> Iterator[Stores]:
    """A master and a replica, in this order; the settings lead to the master."""
    master = Server(site, "master", ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"])
    with _running([master]) as masters:
        follows = ["--appendonly", "yes", "--replicaof", "127.0.0.1", str(master.port)]
        with _running([Server(site, "replica", follows)]) as replicas:
            eventually(lambda: is_linked(replicas[0]), "the replica does not follow")
            login = {"username": "keystile", "password": PASSWORD}
            yield Stores({"url": master.url, **login, **site.settings}, [*masters, *replicas])


@contextmanager
def sentinel(site: Site) -> Iterator[Stores]:
    """A master, a replica and three sentinels; the ACL user and the sentinels' user have passwords."""
    with replicated(site) as pair, ExitStack() as stack:
        master = pair.servers[0]
        sentinels = stack.enter_context(_running([_sentinel(site, n, master) for n in range(3)]))
        settings = {name: value for name, value in pair.settings.items() if name != "url"}
        stores = Stores(
            {
                "sentinels": [each.address for each in sentinels],
                "sentinel_master": MASTER,
                "sentinel_username": "asking",
                "sentinel_password": SENTINEL_PASSWORD,
                "tls": site.certificates is not None,
                **settings,
            },
            pair.servers,
            sentinels,
        )
        for each in sentinels:
            each.ask("ACL", "SETUSER", *SENTINEL_USER.split())
        eventually(lambda: _is_watched(stores), "the sentinels did not find each other and the replica")
        yield stores


def _sentinel(site: Site, number: int, master: Server) -> Server:
    server = Server(site, f"sentinel-{number}", is_sentinel=True)
    server.folder.mkdir()
    settings = [
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2",
        f"sentinel down-after-milliseconds {MASTER} {_FAILOVER_MS}",
        f"sentinel failover-timeout {MASTER} 2000",
    ]
    (server.folder / "sentinel.conf").write_text("\n".join(settings) + "\n")
    return server


def _is_watched(stores: Stores) -> bool:
    for each in stores.sentinels:
        found = pairs(each.ask("SENTINEL", "MASTER", MASTER))
        if (int(found["num-slaves"]), int(found["num-other-sentinels"])) != (1, 2):
            return False
    return True


def pairs(state: Any) -> dict[str, str]:
    """What a sentinel says of a server, in either protocol."""
    return state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))


def is_linked(replica: Server) -> bool:
    """Whether a replica follows its master."""
    with replica.client as client:
        return bool(client.info("replication")["master_link_status"] == "up")


@contextmanager
def cluster(site: Site) -> Iterator[Stores]:
    """Three masters; a slot whose node is away takes no other one with it."""
    options = [
        "--appendonly", "yes", "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
        "--cluster-node-timeout", str(_NODE_TIMEOUT_MS),
    ]  # fmt: skip
    with _running([Server(site, f"node-{number}", options) for number in range(3)]) as servers:
        for number, (server, first, last) in enumerate(zip(servers, *_ranges(len(servers)), strict=True)):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server in servers[1:]:
            servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port)
        eventually(lambda: all(is_well(each, servers) for each in servers), "the cluster did not form")
        settings = {
            "cluster": [each.address for each in servers[:2]],
            "tls": site.certificates is not None,
            "username": "keystile",
            "password": PASSWORD,
            **site.settings,
        }
        yield Stores(settings, servers)


def is_well(server: Server, servers: list[Server]) -> bool:
    """Whether a node of the cluster serves, and knows that the others do."""
    with server.client as client:
        slots: Any = client.execute_command("CLUSTER SLOTS")
        state: Any = client.execute_command("CLUSTER INFO")
    covered = int(state["cluster_slots_ok"]) == _SLOTS and len({slot[2][1] for slot in slots}) == len(servers)
    return covered and state["cluster_state"] == "ok"


def begin_move(slot: int, source: Server, target: Server) -> None:
    """Let a slot of a cluster begin to move, as the operator's tools do."""
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))


def end_move(slot: int, source: Server, target: Server, cluster: Stores) -> None:
    """Move its keys, and tell every node who has it now."""
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    if keys:
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    owner = target.ask("CLUSTER", "MYID")
    for each in (target, source, *cluster.servers):
        each.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)


def _ranges(count: int) -> tuple[list[int], list[int]]:
    firsts = [_SLOTS * number // count for number in range(count)]
    return firsts, [*(first - 1 for first in firsts[1:]), _SLOTS - 1]


@contextmanager
def _running(servers: list[Server]) -> Iterator[list[Server]]:
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


SHAPES = {"standalone": standalone, "sentinel": sentinel, "cluster": cluster}
