"""A real OpenLDAP in a container: people, groups, a password policy, and entries that look like Active Directory's."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.tls import Authority

SUFFIX = "dc=example,dc=com"
PEOPLE, GROUPS, TEAMS = (f"ou={name},{SUFFIX}" for name in ("people", "groups", "teams"))
STAFF, POLICIES = (f"ou={name},{SUFFIX}" for name in ("staff", "policies"))
SERVICE = f"cn=keystile,{SUFFIX}"
SERVICE_PASSWORD = "service password of the tests"
PASSWORD = "analytical engine"
NORMAL_ACCOUNT = 0x200

_FOLDER = Path(__file__).parent / "directory"
_IMAGE = "keystile-tests/openldap"
_PORTS = (1389, 1636)
_RUN = (
    "mkdir /tmp/database && exec /usr/sbin/slapd -d 256 -f /tmp/directory/slapd.conf "
    f"-h 'ldap://0.0.0.0:{_PORTS[0]}/ ldaps://0.0.0.0:{_PORTS[1]}/'"
)


@dataclass
class OpenLdap:
    """A running server, and what its administrator does."""

    port: int
    tls_port: int
    authority: Authority
    ca_file: Path

    def settings(self, **changes: Any) -> dict[str, Any]:
        """An identity of this directory, by ldaps; what `changes` has as None is left out.

        By an address: where a name is `localhost`, libldap looks for the machine's own name in the certificate.
        """
        values = {
            "kind": "ldap",
            "title": "Corp",
            "urls": [f"ldaps://127.0.0.1:{self.tls_port}"],
            "ca_file": str(self.ca_file),
            "bind_dn": SERVICE,
            "bind_password": SERVICE_PASSWORD,
            "user_base": PEOPLE,
            "recheck_seconds": 60,
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}

    @contextmanager
    def administrator(self) -> Iterator[Any]:
        """A connection that may do everything."""
        import ldap  # noqa: PLC0415 (not installed everywhere)

        connection = ldap.initialize(f"ldap://127.0.0.1:{self.port}")
        connection.simple_bind_s(f"cn=admin,{SUFFIX}", "admin")
        try:
            yield connection
        finally:
            connection.unbind_s()

    def add(self, dn: str, *classes: str, **attributes: str | bytes | list[str]) -> str:
        """Add an entry; `_` in an attribute's name stands for `-`. Answers its DN."""
        values = {"objectClass": [each.encode() for each in classes]}
        for name, value in attributes.items():
            several = value if isinstance(value, list) else [value]
            values[name.replace("_", "-")] = [each.encode() if isinstance(each, str) else each for each in several]
        with self.administrator() as connection:
            connection.add_s(dn, list(values.items()))
        return dn

    def person(self, **attributes: str | bytes | list[str]) -> str:
        """Add somebody of a new name; answers it."""
        uid = str(attributes.pop("uid", f"p{uuid.uuid4().hex[:12]}"))
        values: dict[str, Any] = {"uid": uid, "cn": uid, "sn": uid, "userPassword": PASSWORD, **attributes}
        self.add(self.dn(uid), "inetOrgPerson", **values)
        return uid

    def staff(self, **attributes: str) -> str:
        """Add somebody as Active Directory would have them; answers the name."""
        name = f"s{uuid.uuid4().hex[:12]}"
        values = {"userAccountControl": str(NORMAL_ACCOUNT), "objectCategory": "person", **attributes}
        self.add(
            f"cn={name},{STAFF}", "user", cn=name, sn=name, sAMAccountName=name, objectGUID=uuid.uuid4().bytes_le,
            userPassword=PASSWORD, **values,
        )  # fmt: skip
        return name

    def group(self, name: str, *members: str, base: str = GROUPS) -> str:
        """Add a group of these DNs; answers its DN."""
        return self.add(f"cn={name},{base}", "groupOfNames", cn=name, member=list(members) or [SERVICE])

    def set(self, dn: str, **attributes: str | None) -> None:
        """Replace attributes; None takes one away."""
        import ldap  # noqa: PLC0415

        changes = [
            (ldap.MOD_REPLACE, name.replace("_", "-"), None if value is None else [value.encode()])
            for name, value in attributes.items()
        ]
        with self.administrator() as connection:
            connection.modify_s(dn, changes)

    def rename(self, uid: str, new: str) -> None:
        """Give somebody another name."""
        with self.administrator() as connection:
            connection.rename_s(self.dn(uid), f"uid={new}")

    def delete(self, dn: str) -> None:
        with self.administrator() as connection:
            connection.delete_s(dn)

    def connections(self) -> int:
        """How many connections are open, without the one that asks."""
        with self.administrator() as connection:
            found = connection.search_s("cn=Current,cn=Connections,cn=Monitor", 0, attrlist=["monitorCounter"])
        return int(found[0][1]["monitorCounter"][0]) - 1

    @staticmethod
    def dn(uid: str) -> str:
        return f"uid={uid},{PEOPLE}"


@contextmanager
def running_openldap(folder: Path) -> Iterator[OpenLdap]:
    """Run one, with its accounts' folders in it, while the block runs.

    Args:
        folder: where its authority's certificate is put.
    """
    authority = Authority()
    certificate, key = authority.pair("localhost", "127.0.0.1")
    files = {"ca.crt": authority.pem, "tls.crt": certificate, "tls.key": key}
    files |= {path.name: path.read_bytes() for path in (_FOLDER / "slapd.conf", _FOLDER / "active_directory.schema")}
    container = DockerContainer(_image(), entrypoint=["sh", "-c"]).with_command([_RUN])
    for name, content in files.items():
        container.with_copy_into_container(content, f"/tmp/directory/{name}", 0o444)
    container.with_exposed_ports(*_PORTS)
    container.waiting_for(LogMessageWaitStrategy("slapd starting").with_startup_timeout(60))
    ca_file = folder / "directory-ca.crt"
    ca_file.write_bytes(authority.pem)
    with container:
        ports = [int(container.get_exposed_port(port)) for port in _PORTS]
        server = OpenLdap(ports[0], ports[1], authority, ca_file)
        _furnish(server)
        yield server


def _furnish(server: OpenLdap) -> None:
    server.add(SUFFIX, "dcObject", "organization", o="Example", dc="example")
    for name in ("people", "groups", "teams", "staff", "policies", "hidden"):
        server.add(f"ou={name},{SUFFIX}", "organizationalUnit", ou=name)
    server.add(SERVICE, "inetOrgPerson", cn="keystile", sn="keystile", userPassword=SERVICE_PASSWORD)
    policy = {"pwdAttribute": "userPassword", "sn": "policy"}
    server.add(
        f"cn=default,{POLICIES}", "person", "pwdPolicy", cn="default", pwdLockout="TRUE", pwdMaxFailure="3",
        pwdMustChange="TRUE", **policy,
    )  # fmt: skip
    server.add(f"cn=brief,{POLICIES}", "person", "pwdPolicy", cn="brief", pwdMaxAge="1", **policy)


@cache
def _image() -> str:
    named = os.environ.get("OPENLDAP_IMAGE")
    if named:
        return named
    command = ["docker", "build", "--quiet", "--tag", _IMAGE, str(_FOLDER)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr
    return _IMAGE
