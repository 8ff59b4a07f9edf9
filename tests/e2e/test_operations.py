"""docs/operations.md as an operator follows it: every block of commands is run as it stands, in its order.

Four things differ from a reader's: `-it` is `-i`, as the page says, with a password on standard input; `valkey-cli`
takes `--tls --insecure`, as the page says of a release like this one; a port-forward goes on in the background; and the
page's example of a resource is the release's own.
"""

import base64
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.kubernetes import ROOT, Kubernetes, eventually
from tests.e2e.site import Site
from tests.e2e.tls_inside import TlsInside

AUTH = "deployment/keystile-auth"
_RESOURCE = "https://mcp.example.com/mcp"
_PAGE = (ROOT / "docs" / "operations.md").read_text()
_BLOCKS = {
    section.partition("\n")[0]: re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for section in re.split(r"^## ", _PAGE, flags=re.MULTILINE)[1:]
}
_TERMINAL = """
set -euo pipefail
kubectl() {
    set -- "${@//valkey-cli /valkey-cli --tls --insecure }"
    case " $* " in
        *" -it "*) printf '%s\\n%s\\n' "$PASSWORD" "$PASSWORD" | command kubectl "${@/#-it/-i}" ;;
        *" port-forward "*)
            command kubectl "$@" >/dev/null &
            trap "kill $!" EXIT
            sleep 2
            ;;
        *) command kubectl "$@" ;;
    esac
}
"""


@pytest.fixture(scope="module")
def folder(site: Site, tls_inside: TlsInside, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the operator sits: the charts, and the release's values."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "charts").symlink_to(ROOT / "charts")
    values = site.kubernetes.run("helm", "get", "values", "keystile", "--namespace", "keystile", "--output", "yaml")
    (folder / "my-values.yaml").write_text(values.stdout)
    return folder


@pytest.fixture(scope="module")
def follow(site: Site, folder: Path) -> Callable[[str], str]:
    """Runs the next block of a section; answers what it printed."""

    def follow(section: str) -> str:
        environment = {**os.environ, "KUBECONFIG": str(site.kubernetes.kubeconfig), "PASSWORD": "an operator's choice"}
        answer = subprocess.run(
            ["bash", "-c", _TERMINAL + _BLOCKS[section].pop(0).replace(_RESOURCE, site.resource)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    return follow


def _settle(site: Site) -> None:
    site.kubernetes.wait_for_rollout("statefulset/keystile-valkey", AUTH, "deployment/keystile-mcp")
    site.wait_until_served()


def _has_user(kubernetes: Kubernetes, name: str) -> bool:
    return name in kubernetes.kubectl("exec", AUTH, "--", "keystile", "users", "list").split()


def test_looking_around(follow: Callable[[str], str]) -> None:
    assert "mcp answers the tool echo" in follow("Looking around")
    assert "keystile_build_info" in follow("Looking around")
    assert "used_memory_human" in follow("Looking around")


def test_users_and_clients(follow: Callable[[str], str], site: Site) -> None:
    printed = follow("Users and clients")
    assert "alice" in printed
    assert "Nightly job" in printed
    assert not _has_user(site.kubernetes, "alice")


def test_signing_keys_are_listed_and_rotated(
    follow: Callable[[str], str], site: Site, age_keys: Callable[[int], None]
) -> None:
    # The next key has to be published for fifteen minutes.
    age_keys(3600)
    printed = follow("Signing keys")
    assert all(f" {state} " in printed for state in ("current", "next"))
    assert "Nothing to do: the current key is due at" in printed
    assert "signs now" in printed
    site.kubernetes.kubectl("wait", "job/keys-now", "--for=condition=Complete", "--timeout=60s")
    assert "Nothing to do" in site.kubernetes.kubectl("logs", "job/keys-now")


def test_a_backup_is_restored_and_the_connections_of_then_go_on(
    follow: Callable[[str], str], site: Site, folder: Path, http: httpx2.Client
) -> None:
    client = site.sign_in(http)
    assert len(base64.b64decode(follow("Backup"))) == 32
    follow("Backup")
    assert (folder / "keystile.rdb").read_bytes().startswith((b"REDIS", b"VALKEY"))
    add = ("exec", "--stdin", AUTH, "--", "keystile", "users", "add", "afterwards")
    site.kubernetes.kubectl(*add, given="a password of some length\n")
    follow("Restore")
    _settle(site)
    assert not _has_user(site.kubernetes, "afterwards")
    assert site.refresh(http, client).status_code == 200
    assert site.call_tool(http, client.access_token).status_code == 200


def test_auth_is_scaled(follow: Callable[[str], str], site: Site) -> None:
    follow("Scaling")
    _settle(site)
    assert len(site.kubernetes.pods("auth")) == 4


def test_an_upgrade_is_made_and_taken_back(follow: Callable[[str], str], site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    assert "mcp answers the tool echo" in follow("Upgrade")
    _settle(site)
    assert site.refresh(http, client).status_code == 200


def test_the_store_s_password_is_replaced(follow: Callable[[str], str], site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    follow("Secrets")
    _settle(site)
    assert site.refresh(http, client).status_code == 200


def test_certificates_inside_are_seen_to_be_renewed(follow: Callable[[str], str], tls_inside: TlsInside) -> None:
    tls_inside.renew()
    tls_inside.wait_until_shown()
    printed = follow("Secrets")
    assert "keystile_certificate_not_after_timestamp_seconds" in printed
    assert "renewed certificate: OK" in printed


def test_a_master_key_that_was_seen_is_replaced(follow: Callable[[str], str], site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    follow("Secrets")
    _settle(site)
    refused = site.refresh(http, client)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    client = site.sign_in(http)
    assert site.call_tool(http, client.access_token).status_code == 200


def test_an_uninstalled_release_can_be_had_again_until_its_volume_is_deleted(
    follow: Callable[[str], str], site: Site, http: httpx2.Client, upgrade: Callable[..., None]
) -> None:
    client, kubernetes = site.sign_in(http), site.kubernetes
    follow("Uninstall")
    own = "app.kubernetes.io/instance=keystile"
    eventually("the pods are gone", lambda: not kubernetes.objects("pods", own), 120)
    left = kubernetes.kubectl(
        "get", "all,configmaps,serviceaccounts,networkpolicies", "--selector", own, "--output", "name"
    )
    assert left == ""
    upgrade()
    site.wait_until_served()
    assert site.refresh(http, client).status_code == 200

    kubernetes.run("helm", "uninstall", "keystile", "--namespace", "keystile", "--wait")
    follow("Uninstall")
    left = kubernetes.kubectl("get", "pvc,secrets", "--output", "name")
    assert "data-keystile-valkey-0" not in left
    assert "secret/keystile\n" not in left


def test_every_block_was_followed() -> None:
    assert {section: blocks for section, blocks in _BLOCKS.items() if blocks} == {}
