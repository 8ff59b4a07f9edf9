"""What stops a server with a SAML identity before it starts, each with a sentence that says what to do."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keystile_auth.identity.answer import IdentityUnavailableError
from keystile_auth.identity.saml import signatures, xmlsec1
from keystile_auth.identity.saml.document import read
from keystile_auth.identity.saml.provider import SamlProvider
from keystile_auth.identity.saml.xmlsec1 import PROGRAM
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError
from tests.saml_provider import SigningKey, elliptic_key, signature_template

pytestmark = pytest.mark.xmlsec1

KEY = SigningKey()


def provider(**settings: Any) -> SamlProvider:
    values = {"kind": "saml", "metadata_file": "none.xml", **settings}
    store: Any = None
    return SamlProvider("corp", IdentitySettings(**values), "https://auth.example.com/saml/corp", lambda: 0.0, store)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key": "none", "certificate": KEY.certificate_pem}, "identity.corp.key: must be an RSA key of 2048 bits"),
        ({"key": elliptic_key().pem, "certificate": KEY.certificate_pem}, "identity.corp.key: must be an RSA key"),
        ({"key": KEY.pem, "certificate": "none"}, "identity.corp.certificate: is no X.509 certificate"),
        ({"key": KEY.pem, "certificate": SigningKey().certificate_pem}, "identity.corp.certificate: is of another key"),
        ({"metadata_certificate_file": "/none"}, "identity.corp.metadata_certificate_file: /none cannot be read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_used_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        provider(**settings)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho\n", "#!/none\n"])
def test_without_xmlsec1_the_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
) -> None:
    if script:
        (tmp_path / PROGRAM).write_text(script)
        (tmp_path / PROGRAM).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"corp: the kind saml needs the program xmlsec1.*apt-get install"):
        provider()


def test_without_a_folder_for_temporary_files_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/none")
    with pytest.raises(SettingsError, match="the kind saml needs a folder for temporary files"):
        provider()


_WITHOUT_PYSAML2 = """
import sys
sys.modules["saml2"] = None
from tests.auth_server import auth_settings, create_metrics
from keystile_auth.app import create_app
from keystile_common.settings import SettingsError
identity = {"corp": {"kind": "saml", "metadata_file": "none.xml"}} if sys.argv[1] == "saml" else {"local": {"kind": "local"}}
settings = auth_settings("http://127.0.0.1:1", "redis://127.0.0.1:1/0", identity=identity)
from opentelemetry.trace import NoOpTracer
from keystile_common.audit import AuditLog
from keystile_common.store import connect
metrics = create_metrics()
try:
    create_app(settings, connect(settings.store, metrics.store, NoOpTracer()), metrics, NoOpTracer(), AuditLog([], metrics.audit))
except SettingsError as problem:
    print(problem)
"""  # noqa: E501


@pytest.mark.parametrize(("kind", "said"), [("saml", "pip install keystile-auth[saml]"), ("local", "")])
def test_without_pysaml2_the_sentence_says_how_to_install_it_and_others_need_none(kind: str, said: str) -> None:
    folder = Path(__file__).parents[3]
    answer = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PYSAML2, kind], capture_output=True, text=True, cwd=folder, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert (said in answer.stdout) if said else not answer.stdout


async def test_too_many_at_once_are_told_to_come_again() -> None:
    one, wait = provider(), threading.Event()
    async with one:
        waiting = [asyncio.create_task(one._in_thread(wait.wait)) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(IdentityUnavailableError, match="too many sign-ins at once"):
            await one._in_thread(wait.wait)
        wait.set()
        await asyncio.gather(*waiting)
        assert await one._in_thread(lambda: 1) == 1


async def test_a_program_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keystile_auth.identity.saml.provider._DEADLINE_SECONDS", 0.05)
    one, wait = provider(), threading.Event()
    async with one:
        with pytest.raises(IdentityUnavailableError, match="took too long"):
            await one._in_thread(wait.wait)
        wait.set()


def hanging(folder: Path, make: Callable[[], Any]) -> None:
    """Put a program in xmlsec1's place that does not end by itself."""
    (folder / PROGRAM).write_text('#!/bin/sh\n[ "$1" = --version ] && echo xmlsec1 1.2.41 && exit\nexec sleep 60\n')
    (folder / PROGRAM).chmod(0o755)
    make()


def test_xmlsec1_is_ended_when_it_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(xmlsec1, "_RUN_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    made: list[signatures.Signatures] = []
    hanging(tmp_path, lambda: made.append(signatures.Signatures()))
    text = f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" ID="_m">{signature_template("_m")}'
    with pytest.raises(signatures.SignatureError, match="does not hold"):
        made[0].verify_metadata(read(f"{text}</md:EntityDescriptor>".encode()), KEY.certificate_pem)
