"""What is in the images, and what is not."""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.kubernetes import ROOT

# Whose code each image holds, and the Dockerfile that makes it.
SERVICES = {"auth": {"auth"}, "mcp": {"mcp"}, "embedded": {"auth", "mcp", "embedded"}}
DOCKERFILES = {"auth": "Dockerfile.auth", "mcp": "Dockerfile.mcp", "embedded": "Dockerfile.mcp"}
MEGABYTE = 1_000_000
_PACKAGES = "opt/keystile/lib/python"
_OF_PACKAGES = {"auth": {"var"}, "mcp": set[str](), "embedded": {"var"}}


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        name: of the service.
        config: as its manifest has it.
        megabytes: what it adds to its base.
        files: every path in it, without the leading slash.
        own: those that its base has not.
    """

    name: str
    config: dict[str, Any]
    megabytes: float
    files: frozenset[str]
    own: frozenset[str]


def _docker(*arguments: str) -> str:
    answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def _inspect(image: str) -> dict[str, Any]:
    (found,) = json.loads(_docker("image", "inspect", image))
    return dict(found)


def _files(image: str) -> frozenset[str]:
    container = _docker("create", image).strip()
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            return frozenset(each.name for each in archive if not each.isdir())
    finally:
        _docker("rm", container)


def _base(service: str) -> str:
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / DOCKERFILES[service]).read_text(), re.MULTILINE)
    return str(base)


@pytest.fixture(scope="module", params=SERVICES)
def image(request: pytest.FixtureRequest, images: None) -> Image:
    """Each image, as `make images` builds it."""
    tag, base = f"keystile-{request.param}:dev", _base(request.param)
    described, files = _inspect(tag), _files(tag)
    megabytes = (described["Size"] - _inspect(base)["Size"]) / MEGABYTE
    return Image(request.param, described["Config"], megabytes, files, files - _files(base))


def test_it_holds_its_own_services_and_nothing_of_others(image: Image) -> None:
    own, every = SERVICES[image.name] | {"common"}, set().union(*SERVICES.values())
    packages = {part for path in image.own for part in path.split("/")}
    assert {f"keystile_{each}" for each in own} <= packages
    others = "|".join(every - own) or "none"
    assert not [path for path in image.files if re.search(rf"keystile[_-]({others})\b", path)]


def test_it_adds_at_most_120_megabytes_to_its_base(image: Image, figures: dict[str, str]) -> None:
    figures[f"image keystile-{image.name} over its base"] = f"{image.megabytes:.0f} MB"
    assert image.megabytes <= 120


def test_nothing_of_its_making_is_left(image: Image) -> None:
    # Beside our own folder only what the system's packages of shared libraries bring, SAML's program, and Python's own
    # library compiled.
    assert {path.split("/")[0] for path in image.own} <= {"opt", "usr", ".dockerenv", *_OF_PACKAGES[image.name]}
    of_making = re.compile(r"usr/(include|local|s?bin)/|var/(cache|lib/apt/lists|log)/")
    compiled = re.compile(r"usr/local/lib/python[\d.]+/(\w+/)*__pycache__/[\w.-]+\.pyc")
    left = {path for path in image.own if of_making.match(path) and not compiled.fullmatch(path)}
    assert left <= {"usr/bin/xmlsec1"}
    assert not [path for path in image.own if path.endswith((".whl", ".tar.gz", ".lock", ".o"))]
    tools = re.compile(rf"{_PACKAGES}[\d.]+/site-packages/(pip|setuptools|wheel|hatchling|tests?)(-[\d.]+\S*)?/")
    assert not [path for path in image.own if tools.match(path)]


def test_it_runs_as_a_user_without_rights(image: Image) -> None:
    assert image.config["User"] == "10001:10001"
    assert _docker("run", "--rm", "--entrypoint", "id", f"keystile-{image.name}:dev").startswith("uid=10001 gid=10001")


def test_it_leaves_health_to_the_cluster_s_probes(image: Image) -> None:
    assert "Healthcheck" not in image.config


def test_it_says_what_it_is(image: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in image.config["Labels"].items()}
    assert {"title", "description", "licenses", "version", "revision"} <= set(labels)
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == re.findall(r'^appVersion: "?([\d.]+)', _chart(), re.MULTILINE)[0]


def _chart() -> str:
    return (ROOT / "charts" / "keystile" / "Chart.yaml").read_text()


def test_every_module_is_compiled(image: Image) -> None:
    modules = {path for path in image.own if path.startswith(_PACKAGES) and path.endswith(".py")}
    assert modules
    compiled = {
        re.sub(r"__pycache__/([^/]+)\.cpython-\d+\.pyc$", r"\1.py", path) for path in image.own if "__pycache__" in path
    }
    assert modules <= compiled, sorted(modules - compiled)[:10]


def test_it_starts_on_a_file_system_that_it_cannot_write(image: Image) -> None:
    # Without settings it says which ones are missing, with all of its code loaded.
    locked = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    answer = subprocess.run(
        ["docker", "run", "--rm", *locked, f"keystile-{image.name}:dev"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 2
    assert "settings" in answer.stderr.lower()
    assert "Traceback" not in answer.stderr
