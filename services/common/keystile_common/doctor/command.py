"""The command, with the standard library's parser alone, so that it runs wherever this package is installed."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from keystile_common.certificates import CertificateError, TrustedAuthorities
from keystile_common.doctor.examination import Report, examine
from keystile_common.doctor.finding import Outcome
from keystile_common.doctor.report import as_json, as_table
from keystile_common.doctor.scene import Credentials, Options

EXIT_FINE, EXIT_PROBLEMS, EXIT_NOT_ASKED = 0, 1, 2
_MAX_SECONDS = 10.0
_MAX_FILE_BYTES = 64 * 1024
_DESCRIPTION = (
    "Look at an MCP server from outside, as a client does, and tell what a client would stumble on: name, certificate, "
    "challenge, metadata, authorization server, proxies on the way. It works against any MCP server. Nothing is "
    "changed there without --register. The exit code is 0 if there are no problems, 1 if there are some, and 2 if the "
    "server could not be asked at all."
)


class _UsageError(Exception):
    """The command line cannot be used; `str()` says why."""


def main(arguments: Sequence[str], program: str) -> int:
    """Run the command; answers its exit code.

    Args:
        arguments: without the program's name.
        program: what it is called in help and errors.
    """
    parser = _parser(program)
    given = parser.parse_args(arguments)
    try:
        options = _options(given)
        authorities = TrustedAuthorities(given.ca_file, "--ca-file", beside_system=True) if given.ca_file else None
        report = asyncio.run(examine(options, given.timeout, authorities))
    except (_UsageError, CertificateError) as problem:
        sys.stderr.write(f"{program}: {problem}\n")
        return EXIT_NOT_ASKED
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    sys.stdout.write((as_json(report) if given.output == "json" else as_table(report, coloured=coloured)) + "\n")
    return _exit_code(report)


def _exit_code(report: Report) -> int:
    if not report.was_asked:
        return EXIT_NOT_ASKED
    return EXIT_PROBLEMS if report.outcome is Outcome.PROBLEM else EXIT_FINE


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("url", metavar="URL", help="the MCP server, exactly as clients are given it")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to write the report")
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for one answer; 5 by default")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities to trust beside the system's (PEM)")
    parser.add_argument("--register", action="store_true", help="register a client, and delete it again")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="an access token for the MCP server")
    parser.add_argument("--other-token-file", type=Path, metavar="FILE", help="one for another resource, to be refused")
    parser.add_argument("--client-id", metavar="ID", help="a client that gets a token by client credentials")
    parser.add_argument("--client-secret-file", type=Path, metavar="FILE", help="its secret")
    parser.add_argument("--introspect-as", metavar="NAME", help="who may introspect at the authorization server")
    parser.add_argument("--secret-file", type=Path, metavar="FILE", help="the secret for that")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {_MAX_SECONDS:.0f}")
    return value


def _options(given: argparse.Namespace) -> Options:
    return Options(
        url=_url(given.url),
        register=given.register,
        token=_read(given.token_file, "--token-file"),
        other_token=_read(given.other_token_file, "--other-token-file"),
        client=_credentials(given.client_id, given.client_secret_file, "--client-id", "--client-secret-file"),
        introspect_as=_credentials(given.introspect_as, given.secret_file, "--introspect-as", "--secret-file"),
    )


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise _UsageError("URL must be an http or https URL with a host, like https://tools.example.com/mcp")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _UsageError("URL must have no user, no password and no fragment")
    return url


def _credentials(name: str | None, file: Path | None, name_option: str, file_option: str) -> Credentials | None:
    secret = _read(file, file_option)
    if name is None and secret is None:
        return None
    if not name or secret is None:
        raise _UsageError(f"{name_option} and {file_option} come together")
    return Credentials(name, secret)


def _read(file: Path | None, option: str) -> str | None:
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise _UsageError(f"{option}: cannot read {file}: {problem.strerror}") from None
    text = content.decode("utf-8", errors="replace").strip()
    if not text or len(content) > _MAX_FILE_BYTES or not text.isascii() or not text.isprintable():
        raise _UsageError(f"{option}: {file} must hold one line of printable ASCII, and nothing else")
    return text
