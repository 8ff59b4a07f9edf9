"""What the distributions hold: the resource server's wheel has nothing of the authorization server."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels, built as an image would build them."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [str(ROOT / "services" / each) for each in ("common", "auth", "mcp", "embedded")]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), *sources], check=True, timeout=120)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def _files(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def _requirements(wheel: Path) -> str:
    archive = zipfile.ZipFile(wheel)
    name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
    return " ".join(Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or [])


def test_the_resource_servers_wheel_holds_its_own_package_and_no_other(wheels: dict[str, Path]) -> None:
    packages = {name.split("/")[0] for name in _files(wheels["keystile_mcp"]) if ".dist-info/" not in name}
    assert packages == {"keystile_mcp"}


def test_the_wheel_that_knows_both_services_holds_neither(wheels: dict[str, Path]) -> None:
    packages = {name.split("/")[0] for name in _files(wheels["keystile_embedded"]) if ".dist-info/" not in name}
    assert packages == {"keystile_embedded"}
    assert {"keystile-auth", "keystile-mcp"} <= set(
        re.findall("keystile-[a-z]+", _requirements(wheels["keystile_embedded"]))
    )


def test_neither_the_resource_server_nor_what_it_requires_is_the_authorization_server(wheels: dict[str, Path]) -> None:
    assert "keystile-auth" not in _requirements(wheels["keystile_mcp"])
    assert "keystile-auth" not in _requirements(wheels["keystile_common"])
    for service in ("keystile_mcp", "keystile_auth", "keystile_common"):
        assert "keystile-embedded" not in _requirements(wheels[service])


@pytest.mark.parametrize("suffix", [".lua", ".html", ".css", "py.typed"])
def test_the_authorization_servers_wheel_holds_what_it_reads_at_run_time(wheels: dict[str, Path], suffix: str) -> None:
    source = {
        str(path.relative_to(ROOT / "services" / "auth"))
        for path in (ROOT / "services" / "auth" / "keystile_auth").rglob(f"*{suffix}")
    }
    assert source
    assert source <= set(_files(wheels["keystile_auth"]))
