"""The program xmlsec1, which checks signatures and opens ciphers for pysaml2."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import IO

from saml2.sigver import CryptoBackend, XmlsecError, parse_xmlsec_verify_output

PROGRAM = "xmlsec1"
_RUN_SECONDS = 5.0
_LAX_SINCE = (1, 3)


class MissingProgramError(Exception):
    """xmlsec1 is not installed, or does not run."""


class XmlSec(CryptoBackend):  # type: ignore[misc]
    """Runs xmlsec1 for pysaml2, whose own way has no deadline, asks for the version each time and leaves files open.

    Raises:
        MissingProgramError: there is no xmlsec1, or it does not run.
    """

    def __init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise MissingProgramError
        self._program = program
        try:
            self._version = _run([program, "--version"]).stdout.decode().split()[1]
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            raise MissingProgramError from None

    @property
    def version(self) -> str:
        """As the program says it."""
        return self._version

    def validate_signature(
        self, signedtext: str | bytes, cert_file: str, cert_type: str, node_name: str, node_id: str
    ) -> bool:
        """Check one signature with the key of one certificate; what `KeyInfo` brings is not looked at.

        Raises:
            XmlsecError: it does not hold.
        """
        data = signedtext.encode() if isinstance(signedtext, str) else signedtext
        options = ["--verify", "--enabled-reference-uris", "same-doc", "--enabled-key-data", "raw-x509-cert"]
        options += [f"--pubkey-cert-{cert_type}", cert_file, "--id-attr:ID", node_name, "--node-id", node_id]
        _, said = self._ended(options, data)
        return bool(parse_xmlsec_verify_output(said, self.version_nums))

    def decrypt(self, enctext: bytes, key_file: str) -> bytes:
        """Open the cipher in a document with the key of a file.

        Raises:
            XmlsecError: it is for another key, or was changed.
        """
        opened, _ = self._ended(["--decrypt", "--privkey-pem", key_file], enctext)
        return opened

    def _ended(self, options: list[str], data: bytes) -> tuple[bytes, str]:
        """What the program wrote to its output, and what it said."""
        lax = ["--lax-key-search"] if self.version_nums >= _LAX_SINCE else []
        with NamedTemporaryFile(suffix=".xml") as source, NamedTemporaryFile(suffix=".xml") as output:
            source.write(data)
            source.flush()
            try:
                ended = _run([self._program, *options, *lax, "--output", output.name, source.name])
            except (OSError, subprocess.SubprocessError):
                raise XmlsecError("xmlsec1 did not run") from None
            if ended.returncode:
                raise XmlsecError("xmlsec1 refused")
            return output.read(), ended.stderr.decode()


@contextmanager
def file_of(text: str) -> Iterator[IO[str]]:
    """A file of this text, for this user alone, while the block runs."""
    with NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 (a list, and its program was looked up when we started)
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_RUN_SECONDS,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
